"""The host's side: a device of our own that real kernels report their free pages to.

serve_command   `stress serve-balloon`
guest_command   `stress guest`
session         one guest from connection to verdict: log, view and summary
view            how a guest looks from its host, and the table at the end
host            the loop: batches taken, treated, judged, answered
contract        what a kernel must keep, judged from outside
manners         what the device does wrong on purpose
balloon         the device's side of the handshake
device_queue    a virtqueue as the device sees it
guest_memory    the guest's memory by its own addresses
wire            vhost-user's messages
trace_host      QEMU's device as the host of a guest, read off QEMU's trace
qemu_guest      a whole guest in QEMU
uml             user-mode Linux as a guest
no_xstate       a program that keeps user-mode Linux to registers that it can restore
initrd          what a guest boots into: busybox, a module, a load
"""
