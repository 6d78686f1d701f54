"""Whether clipc has left threads behind; other libraries, such as tqdm, may have some of their own."""

import threading


def threads_of_clipc():
    """The threads of `clipc.parallel` that are alive."""
    return [thread for thread in threading.enumerate() if thread.name == "clipc"]
