"""The accelerator's base types over cffi: the reference for native/accel, whose docstrings are made from these.

Both bindings behave alike; what each part is for is written at the head of native/accel/accel.h. Where that one
relies on the GIL, this one relies on operations that are atomic in Python (of dicts, lists, deques):
no lock is held, so neither a signal handler nor a finalizer can deadlock here.
"""

from shmq._native.pure.consumer import ConsumerBase
from shmq._native.pure.delivery import DeliveryBase
from shmq._native.pure.items import ItemsBase
from shmq._native.pure.sender import QueueBase, SenderBase

__all__ = ["ConsumerBase", "DeliveryBase", "ItemsBase", "QueueBase", "SenderBase"]
