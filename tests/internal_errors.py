"""Where the package raises ValueError and not UserError: the messages that no user reads as they are, and why.

``test_user_errors.py`` holds that there are no others.
"""

WORDED = "`decoding` puts it into the parentheses of its own message, with the file and a remedy"
EAGER = "a reason why a graph cannot be traced: the program runs eagerly, or the message is part of another"

INTERNAL = {
    # data files
    "{name} has version {version[0]}": WORDED,
    "{name} declares shape ": WORDED,
    "'{name}' is a {kind}, not an array": WORDED,
    "it has {file.stat().st_size} bytes": WORDED,
    "{images.dtype} images of shape": WORDED,
    "{len(image)} rectangles with shapes": WORDED,
    "rect_image_index holds other": WORDED,
    "source_image holds other": WORDED,
    "a rectangle is not finite": WORDED,
    "{len(head.split())} names": WORDED,
    "{shorten(name, 80)} ": WORDED,
    "'target' and 'testtarget' have": WORDED,
    "shapes are {packed.shape}": WORDED,
    "a character has another number": WORDED,
    "alphabets are numbered from": WORDED,
    "images of shape {tuple(part.data": WORDED,
    "labels from {labels.min()}": WORDED,
    # compiled steps
    "it was called within effect handlers": EAGER,
    "no parameter requires a gradient": EAGER,
    "a program calls pyro.param": EAGER,
    "a program uses a parameter that": EAGER,
    "a program reads a tensor of its": EAGER,
    "a program sets '{changed[0]}'": EAGER,
    "torch's tensors have no": EAGER,
    "Pyro {pyro.__version__} does not": EAGER,
    "chunk_size bounds the memory of": EAGER,
    "site '{name}' is in a plate that": EAGER,
    "site '{name}' is enumerated, which": EAGER,
    "site '{name}' comes in another": EAGER,
    "site '{name}' is not Gaussian": EAGER,
    # processes
    "a tensor that was computed from": "part of the message about a pair that cannot be sent to other processes",
}
