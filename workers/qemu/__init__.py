"""QEMU's own virtio-balloon as the host of our reports: a real device, driven from here, without a guest.

QEMU runs with its processors stopped. It maps the pages' memfd as the guest's RAM, and *qtest*, its protocol for
tests of devices, lets us be the driver: set the device up through its registers, put the blocks of a batch into
the reporting queue, and kick. The device gives the memory back exactly as it does for a Linux guest.

`process`       whether QEMU is there, and what it is called with
`qtest`         its registers, read and written over a socket
`virtio_mmio`   the device's registers by name, and the handshake of driver and device
`virtqueue`     the queue of a device, in memory that both share (a *split* virtqueue)
`balloon`       its driver: a batch as one chain of descriptors or several
`reporter`      the reporter, which starts it all over the memory of a run
"""

from __future__ import annotations
