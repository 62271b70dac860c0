"""Reports: one file without network, with numbers, pictures and structures that are those of the results."""

from __future__ import annotations

import base64
import inspect
import io
import json
import pkgutil
import re
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

import browser
import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from matplotlib.image import imread

import dpa2_ase.workflows
from dpa2_ase.report import Number, Report
from dpa2_ase.report.citations import bibliography, reference, used
from dpa2_ase.report.figures import inline
from dpa2_ase.report.markup import data_block, element, escape
from dpa2_ase.report.pictures import orientation
from dpa2_ase.report.structures import boundary_images, unwrapped
from dpa2_ase.report.summaries import anything, summarize
from dpa2_ase.report.tables import cell_text, number_text, thinned
from dpa2_ase.workflows import plots
from dpa2_ase.workflows.analysis import RDF, density_profile, rdf
from dpa2_ase.workflows.comparison import compare
from dpa2_ase.workflows.convergence import convergence
from dpa2_ase.workflows.defects import defects
from dpa2_ase.workflows.dimer import dimer
from dpa2_ase.workflows.elastic import elastic
from dpa2_ase.workflows.eos import eos
from dpa2_ase.workflows.errors import errors
from dpa2_ase.workflows.gruneisen import gruneisen
from dpa2_ase.workflows.md import md
from dpa2_ase.workflows.motion import motion_of, msd, vibrational_spectrum
from dpa2_ase.workflows.neb import neb
from dpa2_ase.workflows.phonons import phonons
from dpa2_ase.workflows.quasi_harmonic import quasi_harmonic
from dpa2_ase.workflows.relax import relax
from dpa2_ase.workflows.results import Result
from dpa2_ase.workflows.spectra import Infrared, Raman
from dpa2_ase.workflows.surface import surface
from dpa2_ase.workflows.vacancy import vacancy
from dpa2_ase.workflows.vibrations import vibrations

DOIS = (  # of the programs and models themselves
    "10.1088/1361-648X/aa680e 10.1038/s41524-024-01493-2 10.1038/s41524-024-01278-7 10.1063/5.0155600 "
    "10.21105/joss.05668 10.1088/1361-648X/acd831"
).split()
WAVENUMBERS = np.arange(0.0, 4000.0, 4.0)  # 1/cm
PEAKS = sum(h / (1 + ((WAVENUMBERS - x) / 30) ** 2) for x, h in ((1600, 1.0), (3400, 0.5)))  # Lorentz's
WARNED = ["Not converged after 2 steps", "Imaginary modes", "Not converged after 3 steps", "Not converged"]
HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    "<img src=x onerror='window.hacked = 3'>",
    '"><svg onload="window.hacked = 4">',
    "</style></title><script src=https://example.org/x.js></script>",
    "<!-- --> ]]> &amp; &#60;b&#62; '\" \\u003c",
    "$\\frac{",
)


def with_emt(atoms: Atoms) -> Atoms:
    atoms.calc = EMT()
    return atoms


def copper(*repeats: int) -> Atoms:
    return with_emt(bulk("Cu", cubic=True) * (repeats or (1, 1, 1)))


def hop() -> tuple[Atoms, Atoms]:
    """Cu on Al(100)-like three layers: from one hollow to the next."""
    slab = fcc111("Al", (2, 2, 2), vacuum=6.0)
    slab.set_constraint(FixAtoms(range(len(slab))))
    first, second = slab.copy(), slab.copy()
    add_adsorbate(first, "Cu", 2.0, "fcc")
    add_adsorbate(second, "Cu", 2.0, "hcp")
    return with_emt(first), with_emt(second)


def labelled() -> list[Atoms]:
    frames = []
    for seed in range(4):
        atoms = copper() if seed % 2 else with_emt(bulk("Al", cubic=True))
        atoms.rattle(0.05, seed=seed)
        results = {"energy": atoms.get_potential_energy() + 0.01 * seed, "forces": atoms.get_forces() + 0.02}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def results() -> list[Result]:
    """One of every kind there is."""
    start = copper(2, 2, 2)
    start.rattle(0.05, seed=1)
    primitive = with_emt(bulk("Cu"))
    lattice = phonons(primitive, supercell=(2, 2, 2), relax_first="none")
    hot = md(copper(2, 2, 2), steps=40, temperature=300, interval=2, frame_interval=2)
    motion = motion_of(hot.frames())
    first, second = hop()
    relaxed = relax(first, fmax=0.05).atoms
    path = neb(first, second, images=3, relax_ends=True, fmax=0.3)
    small = {"supercell": (2, 2, 2), "relax_first": "none"}
    return [
        relax(start, cell=True, fmax=0.05),
        relax(start, fmax=1e-9, max_steps=2),
        eos(copper()),
        elastic(copper()),
        lattice,
        lattice.bands(21),
        lattice.dos(20.0),
        lattice.thermal(),
        lattice.imaginary(),
        phonons(with_emt(bulk("Cu", "bcc", a=2.9)), supercell=(2, 2, 2), relax_first="none").imaginary(),
        gruneisen(primitive, mesh=20.0, points=11, **small),
        quasi_harmonic(primitive, temperatures=np.arange(0.0, 501.0, 50.0), mesh=20.0, **small),
        path,
        dimer(relaxed, mode=np.eye(len(relaxed), 3, k=-len(relaxed) + 1), fmax=1e-3, max_steps=3),
        vibrations(with_emt(molecule("H2O"))),
        hot,
        rdf(hot.frames(), r_max=5.0),
        density_profile(hot.frames(), bins=10),
        msd(motion),
        vibrational_spectrum(motion),
        Infrared(frequency=WAVENUMBERS, intensity=PEAKS),
        Raman(frequency=WAVENUMBERS, isotropic=PEAKS, anisotropic=0.5 * PEAKS),
        vacancy(copper(), repeats=(2, 2, 2), relax_positions=False),
        defects(copper(), substitutions=[("Cu", "Cu")], repeats=(2, 2, 2), relax_first=False, relax_positions=False),
        surface(copper(), (1, 0, 0), layers=(3, 4), relax_positions=False),
        convergence(lambda n: 1 / n, [1, 2, 50, 51, 52], tolerance=0.1),
        convergence(lambda n: n, [1, 2, 3], tolerance=0.1),
        errors(labelled(), EMT(), groups=["a", "a", "b", "b"]),
        compare([copper(), with_emt(bulk("Al"))], {"EMT": EMT(), "EMT again": EMT()}, eos=True),
    ]


def kinds() -> set[type[Result]]:
    found = set()
    for module in pkgutil.iter_modules(dpa2_ase.workflows.__path__, "dpa2_ase.workflows."):
        for _, item in inspect.getmembers(import_module(module.name), inspect.isclass):
            if issubclass(item, Result) and item is not Result:
                found.add(item)
    return found


def pixels(visit) -> np.ndarray:
    """What the canvas of the viewer shows, (height, width, 4), once it has been drawn."""
    address = visit.page.evaluate(
        """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
             done(document.querySelector("canvas").toDataURL("image/png"));
           })))"""
    )
    return (255 * imread(io.BytesIO(base64.b64decode(address.partition(",")[2])))).round().astype(np.uint8)


def column(visit, k: int) -> list[str]:
    return visit.page.eval_on_selector_all("tbody tr", f"rows => rows.map(row => row.cells[{k}].textContent)")


# ---- pages in a browser ----------------------------------------------------------------------------------------------


def test_every_kind_of_result_is_shown_by_a_page_that_stands_alone(results, open_page, tmp_path):
    assert {type(result) for result in results} == kinds()
    report = Report("All of them", command="dpa2 everything cu.cif", timings={"all": 1.5, "more": 130.0})
    for result in results:
        report.add_result(result)
    path = report.write(tmp_path / "report.html")
    assert path.stat().st_size < 5e6
    for options in ({}, {"dark": True}, {"size": (390, 844), "touch": True}, {"script": False}):
        with open_page(path, **options) as visit:
            page = visit.page
            assert visit.complaints == []
            assert page.locator("main > section").count() == len(results) + 2
            assert page.locator("figure.plot svg").count() >= len(results) - 6
            text = page.inner_text("main")
            assert not re.search(r"\b(nan|None|inf|undefined|NaN|array\(|dtype)\b", text)
            if options.get("script", True):
                assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
                assert page.locator("canvas").count() == page.locator("figure.viewer").count()
            else:
                assert page.locator("canvas").count() == 0
                assert page.locator("figure.viewer .stage svg").count() == page.locator("figure.viewer").count()
    with open_page(path) as visit:
        ids = visit.page.eval_on_selector_all("[id]", "nodes => nodes.map(node => node.id)")
        assert len(ids) == len(set(ids))
        warnings = visit.page.eval_on_selector_all(".warning", "all => all.map(one => one.textContent.split(':')[0])")
        assert [text.split(" for ")[0] for text in warnings] == WARNED


def test_every_kind_of_result_has_a_summary_of_its_own(results):
    for result in results:
        summary = summarize(result)
        assert summary.tables != anything(result).tables, type(result)
        assert summary.headline or summary.tables or summary.pictures
        for table in summary.tables:
            assert {len(row) for row in table.rows} <= {len(table.columns)}


def test_peaks_of_spectra_are_listed():
    for result in (
        Infrared(frequency=WAVENUMBERS, intensity=PEAKS),
        Raman(frequency=WAVENUMBERS, isotropic=PEAKS, anisotropic=PEAKS),
    ):
        (table,) = summarize(result).tables
        places, heights = zip(*((place.value, height.value) for place, height in table.rows), strict=True)
        assert places == (1600.0, 3400.0)
        assert heights == pytest.approx((1.0, 0.5), abs=1e-3)  # each is on the other's tail


def test_numbers_are_those_of_the_result(open_page, tmp_path):
    result = eos(copper())
    report = Report("Copper")
    report.add_result(result)
    with open_page(report.write(tmp_path / "report.html")) as visit:
        cards = visit.page.eval_on_selector_all(".card .value", "all => all.map(one => one.textContent)")
        assert cards[:2] == [f"{result.fit.v0 / 4:.3f} Å³/atom", f"{result.fit.b0:.1f} GPa"]
        visit.page.locator(".table + button.copy").nth(1).click()
        lines = visit.page.evaluate("navigator.clipboard.readText()").strip().split("\n")
        assert lines[0] == "volume (Å³/atom),energy (eV/atom)"
        table = np.array([line.split(",") for line in lines[1:]], dtype=float)
        np.testing.assert_array_equal(table[:, 0], result.volumes / 4)  # all digits are copied, not those shown
        np.testing.assert_array_equal(table[:, 1], result.energies / 4)


def test_tables_are_sorted_and_copied(open_page, tmp_path):
    report = Report("Tables")
    values = [3.0, -20.5, float("nan"), 1e-7, 100]
    rows = [(f's{k}, "{"ab"[k % 2]}"', value) for k, value in enumerate(values)]
    report.add_table("Numbers", ["name", "E (eV)"], rows)
    with open_page(report.write(tmp_path / "report.html")) as visit:
        assert column(visit, 1) == ["3", "−20.5", "–", "1 × 10⁻⁷", "100"]
        heading = visit.page.locator("th", has_text="E (eV)")
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == "ascending"
        assert column(visit, 1) == ["−20.5", "1 × 10⁻⁷", "3", "100", "–"]
        heading.locator("button").press("Enter")
        assert heading.get_attribute("aria-sort") == "descending"
        assert column(visit, 1)[-4:] == ["100", "3", "1 × 10⁻⁷", "−20.5"]
        visit.page.locator("th button", has_text="name").click()
        assert column(visit, 1) == ["3", "−20.5", "–", "1 × 10⁻⁷", "100"]
        visit.page.locator("button.copy", has_text="Copy CSV").click()
        visit.page.locator("button.copy", has_text="Copied").wait_for()
        text = visit.page.evaluate("navigator.clipboard.readText()")
        assert text.startswith('name,E (eV)\n"s0, ""a""",3.0\n"s1, ""b""",-20.5\n')
        assert visit.complaints == []


def test_structures_are_drawn_and_turned(open_page, tmp_path):
    atoms = molecule("CH3CH2OH")
    report = Report("Ethanol")
    report.add_structure("Ethanol", atoms)
    with open_page(report.write(tmp_path / "report.html"), size=(800, 700)) as visit:
        page, before = visit.page, pixels(visit)
        corner = before[2, 2]
        drawn = (before != corner).any(axis=2)
        assert 0.03 < drawn.mean() < 0.6
        colors = before[drawn][:, :3].astype(int)
        assert (colors[:, 0] > colors[:, 1:].max(axis=1) + 100).any()  # the red of oxygen
        box = page.locator("canvas").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 120, y + 40, steps=4)
        page.mouse.up()
        turned = pixels(visit)
        assert (turned != before).any(axis=2).mean() > 0.02
        rotation = np.array(page.evaluate("document.querySelector('figure.viewer').viewer.rotation")).reshape(3, 3)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)  # sent with six digits
        assert np.linalg.det(rotation) > 0
        page.locator("canvas").focus()
        page.mouse.wheel(0, -400)
        visit.wait_until("document.querySelector('figure.viewer').viewer.zoom > 1.5")
        page.keyboard.press("ArrowLeft")
        page.locator("button", has_text="Reset").click()
        np.testing.assert_array_equal(pixels(visit), before)
        page.locator("button", has_text="Bonds").click()
        assert (pixels(visit) != before).any()
        assert visit.complaints == []
        assert page.eval_on_selector_all(".legend li", "all => all.map(one => one.textContent)") == [
            "H 6",
            "C 2",
            "O 1",
        ]


def test_a_drag_to_the_right_moves_what_is_in_front_to_the_right(open_page, tmp_path):
    report = Report("Copper")
    report.add_structure("Copper", bulk("Cu", cubic=True))
    seen = "document.querySelector('figure.viewer').viewer.seen.map(one => one.slice(0, 3))"
    with open_page(report.write(tmp_path / "report.html")) as visit:
        pixels(visit)
        before = np.array(visit.page.evaluate(seen))
        box = visit.page.locator("canvas").bounding_box()
        x, y = box["x"] + 40, box["y"] + 40
        visit.page.mouse.move(x, y)
        visit.page.mouse.down()
        visit.page.mouse.move(x + 15, y)
        visit.page.mouse.up()
        pixels(visit)
        moved = np.array(visit.page.evaluate(seen)) - before
        front, back = before[:, 2] > 1, before[:, 2] < -1
        assert front.any()
        assert back.any()
        assert (moved[front, 0] > 0).all()
        assert (moved[back, 0] < 0).all()


def test_distances_and_angles_are_measured(open_page, tmp_path):
    atoms = molecule("H2O")
    report = Report("Water")
    report.add_structure("Water", atoms)
    with open_page(report.write(tmp_path / "report.html")) as visit:
        pixels(visit)
        box = visit.page.locator("canvas").bounding_box()
        places = visit.page.evaluate("document.querySelector('figure.viewer').viewer.seen.map(one => one.slice(0, 2))")
        texts = []
        for index in (1, 0, 2):  # oxygen in the middle
            visit.page.mouse.click(box["x"] + places[index][0], box["y"] + places[index][1])
            texts.append(visit.page.inner_text(".readout"))
        distance, angle = (float(re.search(r"[\d.]+(?= Å|°)", text)[0]) for text in texts[1:])
        assert distance == pytest.approx(atoms.get_distance(0, 1), abs=2e-3)  # positions have steps of 1e-4 Å
        assert angle == pytest.approx(atoms.get_angle(1, 0, 2), abs=0.1)


def test_frames_are_chosen_and_played(open_page, tmp_path):
    frames = [copper() for _ in range(3)]
    for shift, atoms in enumerate(frames):
        atoms.positions[1] += [0.0, 0.0, 0.4 * shift]
    report = Report("Frames")
    report.add_structure("Frames", frames, labels=["one", "two", "three"])
    points = "document.querySelector('figure.viewer').viewer.points.slice(0, 4)"
    with open_page(report.write(tmp_path / "report.html")) as visit:
        first = pixels(visit)
        assert visit.page.inner_text(".time output") == "one"
        np.testing.assert_allclose(visit.page.evaluate(points), frames[0].positions, atol=1e-3)
        visit.page.locator("input[type=range]").focus()
        visit.page.keyboard.press("End")
        assert visit.page.inner_text(".time output") == "three"
        np.testing.assert_allclose(visit.page.evaluate(points), frames[2].positions, atol=1e-3)
        assert (pixels(visit) != first).any()
        visit.page.locator("button.play").click()
        visit.wait_until("document.querySelector('.time output').textContent === 'two'")
        visit.page.locator("button.play").click()
        assert visit.complaints == []


def test_collections_of_different_structures_are_shown(open_page, tmp_path):
    structures = [molecule("H2O"), bulk("Cu", cubic=True), Atoms(), bulk("NaCl", "rocksalt", a=5.64)]
    report = Report("Collection")
    report.add_structure("Collection", structures, labels=["water", "copper", "nothing", "salt"])
    viewer = "document.querySelector('figure.viewer').viewer"
    with open_page(report.write(tmp_path / "report.html")) as visit:
        visit.page.locator("input[type=range]").focus()
        for index, atoms in enumerate(structures):
            symbols = visit.page.evaluate(f"{viewer}.kinds.slice(0, {viewer}.n).map(k => {viewer}.data.symbols[k])")
            assert symbols == atoms.get_chemical_symbols()
            points = np.array(visit.page.evaluate(f"{viewer}.points.slice(0, {viewer}.n)")).reshape(-1, 3)
            np.testing.assert_allclose(points, atoms.positions, atol=1e-3)
            assert bool(visit.page.evaluate(f"{viewer}.lattice")) == (atoms.cell.rank == 3)
            pixels(visit)
            visit.page.keyboard.press("ArrowRight")
            assert visit.page.evaluate(f"{viewer}.frame") == min(index + 1, 3)
        assert visit.page.inner_text(".time output") == "salt"
        assert visit.page.inner_text("figcaption .facts") == "4 structures"
        assert visit.complaints == []


def test_modes_swing(results, open_page, tmp_path):
    result = next(result for result in results if result.name == "vibrations")
    report = Report("Water")
    report.add_result(result)
    points = "document.querySelector('figure.viewer').viewer.points"
    with open_page(report.write(tmp_path / "report.html")) as visit:
        np.testing.assert_allclose(visit.page.evaluate(points), result.atoms.positions, atol=1e-3)
        visit.page.select_option("select", index=2)
        visit.page.locator("button.play").click()
        visit.wait_until("document.querySelector('figure.viewer').viewer.phase > 0.5")
        visit.page.locator("button.play").click()
        moved = np.array(visit.page.evaluate(points)) - result.atoms.positions
        mode = result.modes[2]
        cosine = (moved * mode).sum() / np.linalg.norm(moved) / np.linalg.norm(mode)
        assert abs(cosine) > 0.99  # eight bits


def test_hostile_text_is_read_and_not_run(open_page, tmp_path):
    report = Report(HOSTILE[0], command=f"dpa2 eos '{HOSTILE[1]}'", timings={HOSTILE[2]: 1.0})
    provenance = {"calculator": {"class": HOSTILE[0], "source": {"model": HOSTILE[2], "head": HOSTILE[1]}}}
    provenance |= {"settings": {HOSTILE[3]: HOSTILE[4], "nested": {HOSTILE[0]: [HOSTILE[1]]}}, HOSTILE[5]: HOSTILE[5]}
    report = Report(HOSTILE[0], command=HOSTILE[1], timings={HOSTILE[2]: 1.0}, provenance=provenance)
    for text in HOSTILE:
        report.add_text(text, heading=text)
        report.add_table(text, [text, "two"], [[text, 1], [text, 2]], note=text)
        report.add_structure(text, [bulk("Cu")] * 2, labels=[text, text], note=text)
        report.add_figure(text, lambda text=text: _titled(text.replace("$", "")), note=text)
    report.add_text("control \x00\x1b and half \udce9 characters")
    path = report.write(tmp_path / f"report {HOSTILE[2].replace('/', '')}.html")
    with open_page(path) as visit:
        visit.page.wait_for_timeout(200)
        assert visit.complaints == []
        assert visit.page.evaluate("window.hacked") is None
        assert visit.page.title() == HOSTILE[0]
        headings = visit.page.eval_on_selector_all("main > section > h2", "all => all.map(one => one.textContent)")
        assert set(headings) == {"", *HOSTILE, "What was run", "Please cite"} - {""}
        assert column(visit, 0)[:2] == [HOSTILE[0]] * 2
        assert visit.page.locator(".time output").nth(1).inner_text().split() == HOSTILE[1].split()
        assert visit.page.locator("script").count() == 1 + len(HOSTILE)  # ours, and the data of structures
        assert visit.page.locator("img, iframe, object, embed, base, form").count() == 0
        for index, text in enumerate(HOSTILE[:4]):
            visit.page.locator(".table + button.copy").nth(index).click()
            assert text.split('"')[0] in visit.page.evaluate("navigator.clipboard.readText()")


def test_the_policy_of_the_page_stops_other_scripts(open_page, tmp_path):
    """Should a mistake ever let markup through, nothing of it runs or loads."""
    report = Report("Policy")
    report.add_table("Policy", ["x"], [[element("p", escape("fine"))]])
    path = report.write(tmp_path / "report.html")
    path.write_text(
        path.read_text().replace("<p>fine</p>", f"{HOSTILE[0]}{HOSTILE[2]}<img src=https://example.org/a.png>")
    )
    with open_page(path) as visit:
        visit.page.wait_for_timeout(200)
        assert visit.page.evaluate("window.hacked") is None
        assert len(visit.console_errors) >= 3
        assert all("Content Security Policy" in text for text in visit.console_errors)


def test_works_are_listed_and_copied_as_bibtex(results, open_page, tmp_path):
    source = {"model": "/somewhere/model.pt", "head": "Alloys", "sha256": "ab" * 32}
    calculator = {"class": "dpa2_ase.interfaces.ase.DPA2Calculator", "source": source, "parameters": {"skin": 0.5}}
    report = Report("Works", provenance={"calculator": calculator})
    report.add_result(next(result for result in results if result.name == "phonons"))
    with open_page(report.write(tmp_path / "report.html")) as visit:
        visit.page.locator(".bibtex button.copy").click()
        text = visit.page.evaluate("navigator.clipboard.readText()")
        assert text.count("@article{") == visit.page.locator(".works li").count()
        assert [doi for doi in DOIS if f"doi = {{{doi}}}" not in text] == []
        shown = visit.page.inner_text("#run")
        assert {"model.pt", "Alloys", "ab" * 32} <= set(shown.split())
        assert "somewhere" not in visit.page.content()
        assert "model.pt, head Alloys" in visit.page.inner_text("header")


def test_the_browser_notices_what_is_wrong(open_page, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        "<img src='https://example.org/a.png'><script>console.error('logged');"
        "setTimeout(() => { throw Error('thrown') })</script>"
    )
    with open_page(path) as visit:
        visit.page.wait_for_timeout(200)
        assert visit.requests == ["https://example.org/a.png"]
        assert "error: logged" in visit.console_errors
        assert visit.page_errors == ["thrown"]
        assert len(visit.complaints) >= 3


def test_without_a_browser_tests_are_skipped_here_and_fail_where_changes_are_checked(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        browser.chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs a browser"):
        browser.chromium()


# ---- without a browser -----------------------------------------------------------------------------------------------


def test_long_trajectories_are_thinned(tmp_path):
    atoms = bulk("Cu", cubic=True) * (6, 6, 6)
    frames = []
    for seed in range(600):
        frames.append(atoms.copy())
        frames[-1].rattle(0.1, seed=seed)
    report = Report("Long")
    for number in range(3):
        report.add_structure(f"Trajectory {number}", frames)
    report.add_table("Long", ["n"], ([n] for n in range(100_000)))
    path = report.write(tmp_path / "report.html")
    assert path.stat().st_size < 5e6
    text = path.read_text()
    shown = [int(count) for count in re.findall(r"(\d+) of 600 frames, evenly chosen", text)]
    assert len(shown) == 3
    assert min(shown) > 20
    assert "400 of 100,000 rows, evenly chosen" in text


def test_of_a_long_simulation_in_a_folder_only_what_is_shown_is_read(tmp_path):
    result = md(copper(), steps=500, temperature=100, interval=50, frame_interval=1, folder=tmp_path / "run")
    (view,) = summarize(result).structures
    assert view.total == 501
    assert len(view.frames) == len(view.labels) == 167  # every third
    everything = result.frames()
    for index in (0, 1, 166):
        np.testing.assert_array_equal(view.frames[index].positions, everything[3 * index].positions)
        assert view.labels[index] == f"{0.003 * index:.3f} ps"
    report = Report("Long")
    report.add_result(result)
    report.add_timing("dynamics", 3725)
    assert "167 of 501 frames, evenly chosen." in report.to_html()
    assert "<dt>dynamics</dt><dd>1 h 2 min</dd>" in report.to_html()


def test_what_cannot_be_drawn_is_said(tmp_path):
    report = Report("Edges")
    report.add_structure("Nothing", Atoms())
    report.add_structure("One", Atoms("H"))
    report.add_structure("Large", Atoms("Ar30000", np.random.default_rng(0).uniform(0, 100, (30_000, 3))))
    many = Atoms("Ar9000", np.random.default_rng(0).uniform(0, 60, (9000, 3)), cell=[60] * 3, pbc=True)
    report.add_structure("Many", many)
    report.add_table("Empty", ["a", "b"], [])
    text = report.write(tmp_path / "report.html").read_text()
    assert "It has no atoms." in text
    assert "It is too large to be drawn here." in text
    assert text.count("<circle") < 3000
    assert len(text) < 1e6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda report: report.add_table("x", ["a", "b"], [[1, 2], [3]]), "row 1 has 1 values for 2 columns"),
        (lambda report: report.add_structure("x", []), "no structure"),
        (lambda report: report.add_structure("x", [bulk("Cu")] * 2, labels=["one"]), "1 labels for 2 frames"),
    ],
)
def test_wrong_input_is_named_and_leaves_the_report_as_it_was(call, message):
    report = Report("Wrong")
    with pytest.raises(ValueError, match=message):
        call(report)
    assert report.sections == []


def test_files_are_whole_or_absent(tmp_path):
    report = Report("Files")
    report.add_text("one\n\ntwo")
    path = report.write(tmp_path / "new" / "report.html")
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert path.read_text().endswith("</html>\n")
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(OSError, match="folder"):
        report.write(tmp_path / "folder.html")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["folder.html", "new"]


def test_import_is_light():
    code = "import sys, dpa2_ase.report; print(sorted({'torch', 'matplotlib', 'phonopy', 'h5py'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_results_that_nobody_described_show_their_fields():
    @dataclass(frozen=True)
    class Inner:
        depth: float = 2.0

    @dataclass(frozen=True, eq=False, kw_only=True)
    class Own(Result):
        name: ClassVar[str] = "my-own"

        answer: int = 42
        curve: np.ndarray = field(default_factory=lambda: np.arange(5.0))
        other: np.ndarray = field(default_factory=lambda: np.arange(5.0) ** 2)
        matrix: np.ndarray = field(default_factory=lambda: np.zeros((4, 4)))
        inner: Inner = field(default_factory=Inner)
        atoms: Atoms = field(default_factory=lambda: bulk("Cu"))
        text: str = "<b>"
        nothing: None = None

    summary = summarize(Own())
    rows: dict[str, Any] = dict(summary.tables[0].rows)
    assert summary.title == "My own"
    assert rows == {
        "answer": 42, "matrix": "array of shape (4, 4)", "inner, depth": 2.0, "text": "<b>", "nothing": None
    }  # fmt: skip
    assert summary.tables[1].columns == ("curve", "other")
    assert summary.tables[1].rows[3] == (3.0, 9.0)
    assert summary.pictures == ()
    assert [view.heading for view in summary.structures] == ["Atoms"]
    report = Report("Own")
    report.add_result(Own())
    assert "&lt;b&gt;" in report.to_html()

    class Elsewhere(Own):
        name: ClassVar[str] = "eos"  # of another kind than ours

    assert summarize(Elsewhere()).title == "Eos"


def test_pictures_are_cleaned():
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 10 20">'
        "<metadata>x</metadata><style>*{color:red}</style><script>window.hacked=1</script><!-- note -->"
        '<defs><clipPath id="c"><rect width="1" height="1"/></clipPath></defs>'
        '<a xlink:href="https://example.org"><g clip-path="url(#c)" onclick="x()" '
        'style="fill: #FFFFFF; stroke: #0072b2"><use xlink:href="#c"/><text>a &lt; b</text></g></a></svg>'
    )
    text = inline(svg, "f1", 'say "x"')
    for wrong in ("script", "style>", "metadata", "example", "onclick", "xlink", "xmlns", "note", "#FFFFFF"):
        assert wrong not in text
    assert 'id="f1-c"' in text
    assert "url(#f1-c)" in text
    assert 'href="#f1-c"' in text
    assert "a &lt; b" in text
    assert 'aria-label="say &quot;x&quot;"' in text
    assert "fill: var(--surface); stroke: var(--blue)" in text
    with_image = svg.replace("<metadata>x", '<image xlink:href="data:image/png;base64,AA"/><metadata>x')
    assert "#FFFFFF" in inline(with_image, "f", "x")  # colors around a picture stay with it


def test_large_pictures_become_pixels(open_page, tmp_path):
    def cloud():
        ax = plots.axes(None)
        ax.plot(*np.random.default_rng(0).normal(size=(2, 20_000)), ".")
        return ax

    report = Report("Cloud")
    report.add_figure("Cloud", cloud)
    report.add_figure("Axes", _titled("given"))
    path = report.write(tmp_path / "report.html")
    assert path.stat().st_size < 5e5
    with open_page(path) as visit:
        assert visit.page.locator("img").evaluate("image => image.naturalWidth") > 500
        assert visit.page.locator("svg text", has_text="given").count() == 1
        assert visit.complaints == []


def _titled(text: str):
    ax = plots.axes(None)
    ax.plot([0, 1], [0, 1])
    ax.set_title(text)
    return ax


def test_atoms_that_return_to_the_cell_are_the_same_atoms():
    rng = np.random.default_rng(3)
    start = bulk("Cu", cubic=True) * 2
    start.pbc = [True, True, False]
    drift = np.cumsum(rng.normal(scale=0.8, size=(60, len(start), 3)), axis=0)
    frames = []
    for step in drift:
        frames.append(start.copy())
        frames[-1].positions += step
    shown = unwrapped(frames)
    place = np.array([atoms.get_scaled_positions(wrap=False) for atoms in shown])
    before = np.array([atoms.get_scaled_positions(wrap=False) for atoms in frames])
    shift = place - before
    np.testing.assert_allclose(shift, np.rint(shift), atol=1e-9)  # whole cells
    np.testing.assert_array_equal(np.rint(shift)[..., 2], 0)  # none where nothing repeats
    assert (np.abs(place[..., :2] - 0.5) <= 0.75).all()
    assert (np.abs(before[..., :2] - 0.5) > 0.75).any()
    assert (np.diff(shift, axis=0) != 0).mean() < 0.1  # they do not flicker
    np.testing.assert_array_equal(frames[3].positions, (start.positions + drift[3]))


def test_the_cubic_cell_is_drawn_with_fourteen_atoms():
    images = boundary_images(bulk("Cu", cubic=True))
    assert len(images) + 4 == 14  # eight corners and six faces
    assert len(boundary_images(molecule("H2O"))) == 0
    slab = fcc111("Cu", (1, 1, 1), vacuum=5.0)
    assert len(boundary_images(slab)) == 3
    for atoms in (slab, molecule("CO2"), molecule("C6H6"), Atoms("H"), Atoms("HHe", [[0, 0, 0], [0, 0, 1]])):
        rotation = orientation(atoms)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) > 0


def test_works_are_those_of_the_run():
    ours = {"calculator": {"class": "dpa2_ase.interfaces.ase.DPA2Calculator"}}
    emt = {"calculator": {"class": "ase.calculators.emt.EMT"}}

    def keys(kinds: list[str], *runs: dict[str, Any]) -> list[str]:
        return [re.match(r"@\w+\{(.*),", entry)[1] for entry in used(kinds, runs)]

    assert keys([], emt) == ["ase"]
    assert keys([], ours) == ["ase", "dpa2", "dpa1", "deepmd-kit", "matscipy"]
    assert keys([], {"models": [{"model": "a.pt"}]}) == keys([], ours)
    assert {"phonopy", "spglib"} <= set(keys(["phonons"], emt))
    several = {"calculators": {"a": ours["calculator"], "b": emt["calculator"]}}
    assert keys(["comparison"], several) == keys([], ours)
    mixed = {"calculator": {"class": "SumCalculator", "parts": [ours["calculator"], {"class": "dftd3.ase.DFTD3"}]}}
    assert keys([], mixed)[1:] == ["dpa2", "dpa1", "deepmd-kit", "matscipy", "d3", "d3-damping"]
    settings = {"optimizer": "fire", "climb": True, "method": "improvedtangent", "interpolation": "idpp"}
    assert keys(["neb"], emt | {"settings": settings}) == ["ase", "fire", *NEB]
    assert keys(["neb"], emt | {"settings": settings | {"climb": False}}) == ["ase", "fire", NEB[0], NEB[2]]
    thermostat = {"ensemble": {"name": "nvt-bussi", "timestep": 1.0}}
    assert keys(["md"], emt | {"settings": thermostat}) == ["ase", "stochastic-velocity-rescaling"]
    dois = [re.search(r"doi = \{(.*)\}", entry)[1] for entry in bibliography().values()]
    assert len(dois) == len(set(dois))
    assert set(DOIS) <= set(dois)
    assert reference(bibliography()["elastic-stability"]).startswith("Mouhat and Coudert, Necessary and sufficient")
    assert not any(set("{}\\") & set(reference(entry)) for entry in bibliography().values())


NEB = ["neb-improved-tangent", "neb-climbing-image", "idpp"]


def test_what_several_runs_share_stands_once():
    source = {"model": "/a/model.pt", "sha256": "cd" * 32, "head": "H"}
    calculator = {"class": "dpa2_ase.x", "source": source, "parameters": {"skin": 0.5, "head": "H"}}
    x = np.linspace(1.0, 2.0, 5)
    models = [{"model": "model.pt", "sha256": "cd" * 32, "head": "H", "engine": "kernels"}]
    report = Report("Runs", provenance={"models": models, "settings": {"a": None, "b": 2}, "machine": "x86_64"})
    for name in ("one", "two"):
        provenance = {"calculator": calculator, "settings": {"fmax": 0.1}}
        report.add_result(RDF(pair=None, r=x, g=x, coordination=x, frames=1, provenance=provenance), name)
    html = report.to_html()
    assert html.count("cd" * 32) == 1
    assert html.count("<dt>fmax</dt>") == 1
    assert "<h3>Settings: one</h3>" in html
    assert "kernels" in html
    assert "<dt>a</dt>" not in html
    assert "<dt>machine</dt><dd>x86_64</dd>" in html
    assert "/a/" not in html


def test_numbers_read_well():
    assert number_text(-0.00001, 3) == "0.000"
    assert number_text(-1.5, 1) == "−1.5"
    assert number_text(1.234e-9) == "1.234 × 10⁻⁹"
    assert number_text(float("inf")) == "∞"
    assert number_text(12) == "12"
    assert str(Number(521.8105, error=7.66)) == "521.8 ± 7.7"
    assert str(Number(2.0, 3, float("nan"))) == "2.000"
    assert str(Number(1234.5, error=120.0)) == "1234 ± 120"
    assert cell_text([True, None, np.float64(0.5), {"a": np.arange(2)}]) == "yes, –, 0.5, a: 0, 1"
    assert thinned(5, 10) == [0, 1, 2, 3, 4]
    assert thinned(1000, 3) == [0, 500, 999]


def test_data_cannot_end_its_element():
    block = data_block({"a": "</script><!--\u2028&", "b": [1.5]})
    assert block.count("<") == 2
    assert json.loads(re.sub("<[^>]*>", "", block)) == {"a": "</script><!--\u2028&", "b": [1.5]}
