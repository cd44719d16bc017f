"""Generated pictures in the format of ImageNet's TFDS directory, to try the pieces on.

"generated_shapes" has eight classes: a disc, a square, a triangle or a cross, each red
or blue, of any size and place on a grey ground with noise. The pictures are JPEG files
of different sizes, the features those of imagenet2012. A net that tells them apart
says nothing about ImageNet.
"""

import functools
import io
import pathlib
from typing import Any

import numpy as np

from vnets import extras
from vnets.data import records
from vnets.data.types import DataError

NAME = "generated_shapes"
COLOURS = {"red": (200, 60, 50), "blue": (50, 80, 200)}
FORMS = ("disc", "square", "triangle", "cross")
CLASSES = tuple(f"{colour}_{form}" for colour in COLOURS for form in FORMS)
COUNTS = {"train": 320, "validation": 96}
EDGES = (40, 72)  # of a picture, pixels
SEED = 2012
QUALITY = 90  # of the JPEG files


def prepare(data_dir: pathlib.Path) -> pathlib.Path:
    """Writes the data set in TFDS's array_record format, unless it is there already.

    Returns:
      The directory, DATA_DIR/generated_shapes/VERSION.

    Raises:
      DataError: it cannot be written.
    """
    found = records.locate(NAME, data_dir)
    if found is not None:
        return found
    extras.need("PIL")
    import tensorflow_datasets as tfds

    # Statistics would be computed by TensorFlow.
    config = tfds.download.DownloadConfig(
        compute_stats=tfds.download.ComputeStatsMode.SKIP
    )
    try:
        builder = _builder()(data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # TFDS raises its own, and the disk's
        raise DataError(f"{NAME} cannot be written to {data_dir}: {error}") from error
    return pathlib.Path(builder.data_dir)


def picture(split: str, number: int) -> tuple[bytes, int]:
    """The JPEG file and the class of a number; the same in every version of NumPy."""
    from PIL import Image, ImageDraw

    label = number % len(CLASSES)
    colour, form = CLASSES[label].split("_")
    bits = np.random.PCG64([SEED, list(COUNTS).index(split), number])
    u = bits.random_raw(8) / 2.0**64
    low, high = EDGES
    width, height = (int(low + v * (high - low + 1)) for v in u[:2])
    radius = (0.2 + 0.15 * u[2]) * min(width, height)
    x = radius + u[3] * (width - 2 * radius)
    y = radius + u[4] * (height - 2 * radius)
    ground, shade = int(90 + 70 * u[5]), 40 * (u[6] - 0.5)
    image = Image.new("RGB", (width, height), (ground, ground, ground))
    fill = tuple(int(c + shade) for c in COLOURS[colour])
    _draw(ImageDraw.Draw(image), form, (x, y), radius, fill)
    noise = (bits.random_raw(width * height * 3) >> 59).astype(np.int16)  # 0 to 31
    pixels = np.asarray(image, np.int16) + noise.reshape(height, width, 3) - 16
    buffer = io.BytesIO()
    whole = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    whole.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue(), label


def _draw(draw, form: str, centre: tuple[float, float], radius: float, fill) -> None:
    x, y = centre
    around = (x - radius, y - radius, x + radius, y + radius)
    if form == "disc":
        draw.ellipse(around, fill)
    elif form == "square":
        draw.rectangle(around, fill)
    elif form == "triangle":
        base = y + radius
        draw.polygon([(x, y - radius), (x - radius, base), (x + radius, base)], fill)
    else:
        third = radius / 3
        draw.rectangle((x - third, y - radius, x + third, y + radius), fill)
        draw.rectangle((x - radius, y - third, x + radius, y + third), fill)


@functools.cache
def _builder() -> Any:
    """TFDS's builder of the data set; it is made when TFDS is loaded at last."""
    import tensorflow_datasets as tfds

    class GeneratedShapes(tfds.core.GeneratorBasedBuilder):
        """Generated pictures of coloured shapes; no photographs."""

        name = NAME
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = None

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=list(CLASSES)),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=type(self).__doc__,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            del dl_manager  # nothing is downloaded
            return {split: self._generate_examples(split) for split in COUNTS}

        def _generate_examples(self, split: str):
            for number in range(COUNTS[split]):
                encoded, label = picture(split, number)
                name = f"{split}_{number:05d}.JPEG"
                image = io.BytesIO(encoded)
                yield name, {"image": image, "label": label, "file_name": name}

    return GeneratedShapes
