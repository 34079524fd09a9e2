"""What a reporter raises: its batch was not handed over, or there is no such reporter."""

from __future__ import annotations

from pagealloc.errors import PageAllocError


class ReporterError(PageAllocError):
    """A reporter could not do its work, or could not be loaded."""


class DeviceRefused(ReporterError):
    """There is no device to report to: a program, a machine or a feature is missing. The input was bad."""


class DeviceGone(ReporterError):
    """The device ended or broke, and whatever ran it has ended: it touches no memory any more."""


class DeviceSilent(DeviceGone):
    """The device did not answer in time, and was ended for it."""
