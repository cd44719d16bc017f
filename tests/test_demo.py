"""The page in docs/demo reads what Python reads, and shows what records say."""

import functools
import html.parser
import http.server
import json
import pathlib
import re
import shutil
import subprocess
import threading

import golden_files
import numpy as np
import pytest
from compact_nets import Same
from test_compact_files import resealed

from experiments import demo, records
from vnets import compact, data
from vnets.compact import codec

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "demo"
READ = range(2, codec.VERSION + 1)  # versions of the file that the page reads
MOST = 150_000  # bytes of the whole page
# No package of Python's brings Node or Chromium: these tests run where they are.
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(
    NODE is None, reason="needs Node, which runs the reader of the page"
)


def javascript(path, inputs, tmp_path, noise=None):
    """What the page's reader says of a file, and predicts from it."""
    (tmp_path / "inputs").write_bytes(np.asarray(inputs, "<f4").tobytes())
    options = [] if noise is None else [str(noise)]
    script = ROOT / "tests" / "read_vnz.mjs"
    arguments = [script, PAGE / "vnz.js", path, tmp_path / "inputs", *options]
    command = [str(NODE), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def run_javascript(code):
    command = [str(NODE), "--input-type=module", "-e", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PAGE)
    return json.loads(done.stdout)


@needs_node
@pytest.mark.parametrize(
    ("version", "name"),
    [(version, name) for version in READ for name in golden_files.expected(version)],
)
def test_both_readers_predict_alike(version, name, tmp_path):
    """Every kind of step; the noisy one with the same noise everywhere."""
    path = golden_files.folder(version) / f"{name}.vnz"
    predictor = compact.load(path)
    x = golden_files.inputs(predictor.net)
    if name in golden_files.TOKENS:
        found = javascript(path, x, tmp_path)["error"]
        assert "the page does not read: embedding" in found
        return
    for noise in (None, 0.75):
        wanted = predictor(x, noise and Same(noise))
        got = javascript(path, x, tmp_path, noise)
        assert got["about"] == predictor.net.about
        scale = np.ptp(wanted)
        np.testing.assert_allclose(got["outputs"], wanted, atol=1e-5 * scale)


@needs_node
@pytest.mark.parametrize("version", READ)
def test_the_page_refuses_what_python_refuses(version, tmp_path):
    content = (golden_files.folder(version) / "noisy.vnz").read_bytes()
    old = (golden_files.folder(1) / "same.vnz").read_bytes()
    x = golden_files.inputs(compact.loads(content))
    draw = np.random.default_rng(0)
    bad = [b"", content[:-1], content + b"\1", resealed(content[:-1])]
    for _ in range(8):
        changed = bytearray(content)
        changed[draw.integers(10, len(content))] ^= 1 << int(draw.integers(0, 8))
        bad.append(resealed(bytes(changed)))
    (tmp_path / "old.vnz").write_bytes(old)
    assert "version 1" in javascript(tmp_path / "old.vnz", x, tmp_path)["error"]
    refused = 0
    for number, one in enumerate(bad):
        path = tmp_path / f"{number}.vnz"
        path.write_bytes(one)
        try:
            predictor = compact.load(path)
        except ValueError:
            predictor = None
        got = javascript(path, x, tmp_path)
        assert ("error" in got) == (predictor is None), number
        refused += predictor is None
        if predictor is not None:
            wanted = predictor(x)
            error = 1e-4 * np.abs(wanted).max()
            np.testing.assert_allclose(got["outputs"], wanted, atol=error)
    assert 4 <= refused < len(bad)


@pytest.mark.slow
@needs_node
def test_a_thousand_digits_are_read_alike(tmp_path):
    """The page's own net: the same class, and logits within 1e-4."""
    try:
        test = data.load("mnist").test.take(slice(1000))
    except (OSError, RuntimeError, ValueError) as error:
        pytest.skip(f"no MNIST here: {error}")
    x = (test.inputs / np.float32(255)).astype(np.float32)
    predictor = compact.load(PAGE / demo.NET)
    for noise in (None, 0.5, -0.5):
        wanted = predictor(x, noise and Same(noise))
        got = np.asarray(javascript(PAGE / demo.NET, x, tmp_path, noise)["outputs"])
        np.testing.assert_allclose(got, wanted, atol=1e-4)
        np.testing.assert_array_equal(got.argmax(1), wanted.argmax(1))


def test_the_page_shows_what_records_say():
    shown = json.loads((PAGE / demo.DATA).read_text())
    file, decoder = shown.pop("file"), shown.pop("decoder_file")
    assert shown == json.loads(json.dumps(demo.shown(PAGE)))
    assert file["bytes"] == (PAGE / demo.NET).stat().st_size
    record = records.read(PAGE / demo.RECORD)
    assert not record["git"]["dirty"]
    net = compact.load(PAGE / demo.NET).net
    assert net.about["run"] == f"{record['variant']} {record['scale']}"
    assert decoder["bytes"] == (PAGE / demo.DECODER).stat().st_size
    assert compact.load(PAGE / demo.DECODER).net.shape == (2,)
    assert decoder["elbo"] == pytest.approx(shown["decoder"]["elbo"], abs=1.0)
    # Quantizing costs little: within four standard errors of 10,000 digits.
    for name, accuracy in file["accuracy"].items():
        trained = record["evals"][name]["accuracy"]
        error = 4 * np.sqrt(trained * (1 - trained) / file["examples"])
        assert abs(accuracy - trained) < error + 0.002, name


def test_the_page_is_small_and_whole():
    parts = [path for path in PAGE.iterdir() if path.name != demo.RECORD]
    assert sum(path.stat().st_size for path in parts) < MOST
    text = "".join(path.read_text() for path in parts if path.suffix != ".vnz")
    assert "https://" not in text.replace("http://www.w3.org", "")
    scripts = ("vnz.js", "digit.js", "latent.js", "page.js")
    for name in (demo.NET, demo.DECODER, demo.DATA, *scripts, "style.css"):
        assert name in text


class Controls(html.parser.HTMLParser):
    """What can be operated, and whether a name stands at it."""

    def __init__(self):
        super().__init__()
        self.unnamed, self.inside, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)
        named = "aria-label" in attributes or "label" in self.open
        if tag in ("input", "canvas") and not named:
            self.unnamed.append(attributes.get("id"))

    def handle_endtag(self, tag):
        if tag in self.open:
            del self.open[len(self.open) - 1 - self.open[::-1].index(tag)]


def test_controls_have_names():
    controls = Controls()
    controls.feed((PAGE / "index.html").read_text())
    assert not controls.unnamed
    page = (PAGE / "index.html").read_text()
    assert 'lang="en"' in page
    assert "width=device-width" in page


@needs_node
def test_the_decoder_makes_the_same_pictures(tmp_path):
    """As those of NumPy's reader, at all places of the map."""
    code = """
import { readFileSync } from "node:fs";
import { numbersAt, picture, placeOf, TILES } from "./latent.js";
import { read } from "./vnz.js";
const net = read(readFileSync("decoder.vnz"));
const tiles = Array.from({ length: TILES ** 2 }, (_, i) =>
  numbersAt(((i % TILES) + 0.5) / TILES, (Math.floor(i / TILES) + 0.5) / TILES));
const white = tiles.map((z) => [...picture(net, z)]);
const ends = [numbersAt(0, 0), placeOf([9, 9])];
console.log(JSON.stringify([tiles, white, tiles.map(placeOf), ...ends]));
"""
    tiles, white, places, corner, beyond = run_javascript(code)
    logits = compact.load(PAGE / demo.DECODER)(np.asarray(tiles, np.float32))
    np.testing.assert_allclose(white, 1 / (1 + np.exp(-logits)), atol=1e-5)
    middles = (np.arange(13) + 0.5) / 13
    expected = np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 2)
    np.testing.assert_allclose(places, expected, atol=1e-9)
    assert (corner, beyond) == ([-3, 3], [1, 0])


@needs_node
def test_the_ensemble_averages_draws():
    """Of noise that alternates draw by draw; draws of the browser's own are normal."""
    path = golden_files.folder(2) / "noisy.vnz"
    code = f"""
import {{ readFileSync }} from "node:fs";
import {{ ensemble, normal, predict, read, softmax }} from "./vnz.js";
const net = read(readFileSync({json.dumps(str(path))}));
const x = Float32Array.from({{ length: 36 }}, (_, i) => (i % 7) / 7);
const noisy = net.layers.filter((one) => one.vars);
const units = noisy.reduce((n, one) => n + one.features, 0);
let turn = 0;
const found = ensemble(net, x, 2, () => (turn++ < units ? 1 : -1));
const draws = [1, -1].map((noise) => softmax(predict(net, x, () => noise)));
const drawn = Array.from({{ length: 20000 }}, normal);
console.log(JSON.stringify([[...found], draws.map((one) => [...one]), drawn]));
"""
    found, draws, drawn = map(np.asarray, run_javascript(code))
    np.testing.assert_allclose(found, draws.mean(0), rtol=1e-12)
    assert np.abs(draws[0] - draws[1]).max() > 1e-3
    assert abs(drawn.mean()) < 5 / np.sqrt(20_000)
    assert abs(drawn.var() - 1) < 5 * np.sqrt(2 / 20_000)


@needs_node
def test_a_drawing_is_scaled_and_centred_as_in_mnist():
    """A bar anywhere, of any size, becomes 20 high, its mass in the middle."""
    code = """
import { asMnist } from "./digit.js";
const found = [[30, 40, 10, 60], [100, 180, 20, 44], [250, 10, 25, 260]].map((box) => {
  const [x, y, width, height] = box, ink = new Float32Array(280 * 280);
  for (let i = 0; i < ink.length; i++) {
    const row = Math.floor(i / 280) - y, column = (i % 280) - x;
    ink[i] = row >= 0 && row < height && column >= 0 && column < width ? 1 : 0;
  }
  return [...asMnist(ink, 280, 280)];
});
console.log(JSON.stringify([asMnist(new Float32Array(100), 10, 10), ...found]));
"""
    empty, *drawn = run_javascript(code)
    assert empty is None
    for pixels in drawn:
        image = np.asarray(pixels).reshape(28, 28)
        places = np.arange(28) + 0.5
        for axis in (0, 1):
            mass = image.sum(axis)
            assert mass @ places / mass.sum() == pytest.approx(14, abs=0.02)
        np.testing.assert_array_equal(np.flatnonzero(image.sum(1) > 0.1), range(4, 24))
        assert image.max() <= 1 + 1e-6


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium, which opens the page")
def test_the_page_runs_in_a_browser(tmp_path):
    """It begins with a four that is drawn for the reader: seen by draws alone."""
    handler = functools.partial(QuietHandler, directory=PAGE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update"]
        flags += ["--enable-logging=stderr", f"--user-data-dir={tmp_path}"]
        command = [str(BROWSER), *flags, "--virtual-time-budget=8000", "--dump-dom"]
        done = subprocess.run([*command, address], capture_output=True, text=True)
        server.shutdown()
    assert 'data-ready="yes"' in done.stdout
    assert re.search(r'<p id="notice"[^>]*hidden', done.stdout)
    answers = dict(re.findall(r'aria-label="([^":]+): (\d) with', done.stdout))
    assert answers["One draw"] == answers["Average of 20 draws"] == "4"
    assert re.search(r'aria-label="Noise off: \d with [12]\d %"', done.stdout)
    assert ">the picture of 1.00 and 0.00<" in done.stdout
    assert ":CONSOLE" not in done.stderr  # what a page logs, its errors above all


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves the page and says nothing."""

    def log_message(self, format, *args):
        pass
