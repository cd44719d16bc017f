"""Small sets of pictures from files that one brings: a face, and characters.

    frey      1,965 frames of a film of one face, grey, 28 x 20; the target of a frame
              is its number. Every tenth one is a test frame, between two that are
              learned from: a test says how well a net fills in, and not what it makes
              of another face.
    omniglot  the two small background sets, 10 alphabets of 292 characters, each drawn
              by 20 people: strokes of 105 x 105 pixels as means of 28 x 28 blocks,
              white on black. The last 4 who drew a character are the test set. It is a
              part of Omniglot, and cut in another way than the 28 x 28 of Burda et al.
              2016: numbers do not compare.

The files lie in DATA_DIR/frey and DATA_DIR/omniglot, plain or as .xz; arrays of another
content are refused, and nothing is downloaded.
"""

import hashlib
import io
import zipfile

import numpy as np

from vnets.data import text
from vnets.data.types import Arrays, DataError, Places, digest

TEST_FRAMES = 10  # one in
DRAWN, TEST_DRAWN = 20, 4  # of each character, and those of them that are tests
WHITE = 255
STROKES, SIDE = 105, 28  # pixels along a picture as it was drawn, and as it is cut
# What is checked is the content of the arrays.
FREY = text.Origin(
    "frey",
    "Frey faces of Sam Roweis's page (frey_rawface.mat; for research): "
    "`numpy.save('frey.npy', frames)`, uint8 [1965, 28, 20] in the order of the film",
    {
        "frames": text.File(
            "frey.npy",
            "cad8ca38974fedfa9f36a6faa5146c204739ef45ed2e5e1c75f488b445b4ed1b",
        )
    },
)
OMNIGLOT = text.Origin(
    "omniglot",
    "Omniglot of Lake et al. 2015 (brendenlake/omniglot, images_background_small1.zip "
    "and images_background_small2.zip; MIT licence): of each `numpy.savez("
    "'small1.npz', bits=numpy.packbits(ink, axis=1), label=...)`, ink [N, 11025] with "
    "1 where a stroke is, label int16 [N] the number of the character, both in the "
    "order of their files",
    {
        "small1": text.File(
            "small1.npz",
            "a9bd0782e14664330b931c307486bc7aa355268644224c3bb6634761009051a3",
        ),
        "small2": text.File(
            "small2.npz",
            "8db25b4fd1d28b5c970f205c05d934871e6c22008c3189ade3b2adcf01a8e9c9",
        ),
    },
)


def read_frey(name: str, places: Places, download: bool) -> Arrays:
    """Frames, uint8 [N, 28, 20, 1], and their numbers in the film, float32 [N]."""
    del download  # there is nowhere to get it from
    frames = _arrays(name, FREY, "frames", places)["frames"]
    number = np.arange(len(frames))
    in_test = number % TEST_FRAMES == TEST_FRAMES - 1
    arrays = {}
    for split, chosen in {"train": ~in_test, "test": in_test}.items():
        arrays[f"{split}_image"] = frames[chosen][..., None]
        arrays[f"{split}_label"] = number[chosen].astype(np.float32)
    return Arrays(arrays, source="Frey faces, every tenth frame a test")


def read_omniglot(name: str, places: Places, download: bool) -> Arrays:
    """Characters, uint8 [N, 28, 28, 1], and which they are, int32 [N]."""
    del download
    images, labels, known = [], [], 0
    for key in OMNIGLOT.files:
        held = _arrays(name, OMNIGLOT, key, places)
        ink = np.unpackbits(held["bits"], axis=1)[:, : STROKES**2]
        images.append(in_blocks(ink.reshape(-1, STROKES, STROKES), SIDE))
        labels.append(held["label"].astype(np.int32) + known)
        known = labels[-1].max() + 1
    image, label = np.concatenate(images)[..., None], np.concatenate(labels)
    in_test = np.arange(len(label)) % DRAWN >= DRAWN - TEST_DRAWN
    arrays = {}
    for split, chosen in {"train": ~in_test, "test": in_test}.items():
        arrays |= {f"{split}_image": image[chosen], f"{split}_label": label[chosen]}
    return Arrays(arrays, source="Omniglot small1 and small2, our split and 28 x 28")


def in_blocks(ink: np.ndarray, side: int) -> np.ndarray:
    """Means of ink in equal squares, [N, E, E] of 0 and 1 to uint8 [N, side, side].

    Blocks need be no whole pixels: one that is cut counts by its part inside.
    """
    edge = ink.shape[1]
    ends, pixel = np.arange(side + 1) * (edge / side), np.arange(edge)
    inside = np.minimum(ends[1:, None], pixel + 1) - np.maximum(ends[:-1, None], pixel)
    share = np.clip(inside, 0, None).astype(np.float32) * (side / edge)
    return np.rint(WHITE * (share @ ink.astype(np.float32) @ share.T)).astype("u1")


def _arrays(name: str, origin: text.Origin, key: str, places: Places) -> dict:
    """The arrays of a file, by name; that of one without names has the file's key.

    Raises:
      DataError: it is not there, damaged, or its arrays are not those it should have.
    """
    file = origin.files[key]
    path, content = text.contents(name, origin, file, places)
    try:
        held = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(held, np.ndarray):
            found = {key: held}
        else:
            found = {part: held[part] for part in ("bits", "label")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is damaged: {error!r}; it is of the {origin.source}"
        ) from error
    total = array_sum(found)
    if total != file.sha256:
        raise DataError(
            f"{path} does not hold the arrays that it should: the SHA-256 of their "
            f"digests is {total}, not {file.sha256}. It is of the {origin.source}"
        )
    return found


def array_sum(arrays: dict[str, np.ndarray]) -> str:
    """The SHA-256 of the digests of arrays, with their types and shapes."""
    lines = [f"{digest(a)} {a.dtype.str} {list(a.shape)}" for a in arrays.values()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
