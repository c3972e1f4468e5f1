"""The report: what it shows, and that nothing in it can act, whatever a model or a data set says."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from grpocket.cli import main
from grpocket.records import UserError
from grpocket.report.page import write_comparison, write_report
from grpocket.report.run_files import read_lines, read_run
from runs import write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ACT = "document.title='ran'"
PAYLOADS = (
    f"<script>{ACT}</script>",
    f"</script><script>{ACT}</script>",
    f"<ScRiPt>{ACT}</sCrIpT>",
    f"<img src=x onerror={ACT}>",
    f'"><img src=x onerror="{ACT}">',
    f"'><svg onload={ACT}>",
    f"<svg><script>{ACT}</script></svg>",
    f"<svg><animate onbegin={ACT} attributeName=x dur=1s>",
    f"<body onload={ACT}>",
    f"<iframe src=javascript:{ACT}></iframe>",
    f'<iframe srcdoc="<script>parent.{ACT}</script>"></iframe>',
    f'<a href="javascript:{ACT}">x</a>',
    f"<math><a xlink:href=javascript:{ACT}>x</a></math>",
    f"<details open ontoggle={ACT}>",
    f"<input autofocus onfocus={ACT}>",
    f"<video><source onerror={ACT}></video>",
    f"<object data=javascript:{ACT}>",
    f"<embed src=javascript:{ACT}>",
    "<meta http-equiv=refresh content='0;url=https://example.invalid/'>",
    "<base href=https://example.invalid/>",
    "<link rel=stylesheet href=https://example.invalid/a.css>",
    "<style>@import url(https://example.invalid/a.css);</style>",
    "</style><style>body{background:url(https://example.invalid/b)}</style>",
    "<form action=https://example.invalid/><button autofocus>x</button></form>",
    f"--><script>{ACT}</script><!--",
    f"]]><script>{ACT}</script>",
    "{{ 7*7 }}{% for x in ().__class__.__mro__ %}{{ x }}{% endfor %}",
    f'" onmouseover="{ACT}" x="',
    f"&lt;script&gt;{ACT}&lt;/script&gt;\u2028<script>{ACT}</script>",
    f"$\\frac{{1}}$ \x1b[31m\x00\u202e\ud800<scr\x00ipt>{ACT}</script>",
)


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.texts.append(data)


def poisoned(folder: Path) -> Path:
    """A run in which everything a stranger can choose is a payload."""
    of, named = iter(PAYLOADS * 100), iter(PAYLOADS[:29] * 100)

    def paid(reward, text, rng):
        return replace(reward, parts={**reward.parts, next(named): 0.0, PAYLOADS[4]: 0.1})

    write_run(folder, steps=12, reward=paid, num_problems=8)
    for name, fields in (
        ("rollouts.jsonl", ("question", "answer", "text")),
        ("eval.jsonl", ("question", "answer", "text")),
    ):
        lines = [line | {field: next(of) for field in fields} for line in read_lines(folder / name)]
        lines = [line | {"problem": f"{line['problem']} {PAYLOADS[at % 30]}"} for at, line in enumerate(lines)]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = json.dumps(
        {payload: payload for payload in PAYLOADS} | {"steps": 12, "model": PAYLOADS[0], "data": PAYLOADS[3]}
    )
    (folder / "config.yaml").write_text(config)
    (folder / "objective.txt").write_text("\n".join(PAYLOADS[:29]))
    (folder / "environment.json").write_text(json.dumps({"cpu": PAYLOADS[1], PAYLOADS[2]: PAYLOADS[3]}))
    return folder


def pages(tmp_path) -> list[Path]:
    folder = poisoned(tmp_path / "<img src=x onerror=alert(1)>")
    return [write_report(folder), write_comparison([folder, folder], tmp_path / "comparison.html")]


def test_nothing_in_the_page_can_act(tmp_path):
    for path in pages(tmp_path):
        text = path.read_text(encoding="utf-8")
        page = Page(text)
        assert not set(page.tags) & {"script", "iframe", "object", "embed", "link", "base", "form", "img", "input", "a"}
        assert [name for name, _ in page.attributes if name.startswith("on")] == []
        values = [value for name, value in page.attributes if name in ("href", "src", "style", "action", "content")]
        assert not [v for v in values if "javascript:" in v.lower() or "//" in v]
        assert all(value.startswith("#") for name, value in page.attributes if name in ("href", "src", "xlink:href"))
        assert text.count("<style>") == 1
        assert "//" not in text[text.index("<style>") : text.index("</style>")]
        assert "@import" not in text[text.index("<style>") : text.index("</style>")]
        head = text[: text.index("<title>")]
        assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in head
        assert "49" not in re.findall(r">\s*(\d+)\s*<", text)
        assert not set(text) & set("\x00\x1b\u202e\u2028")


def test_what_was_said_is_shown_as_it_was_said(tmp_path):
    text = "".join(Page(pages(tmp_path)[0].read_text(encoding="utf-8")).texts)
    assert PAYLOADS[0] in text
    assert "{{ 7*7 }}" in text


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is parsed, but not opened")
def test_a_browser_runs_nothing(tmp_path):
    for path in pages(tmp_path):
        shown = dump(path)
        assert "ran" not in re.findall(r"<title>(.*?)</title>", shown)
        assert "How it was made" in shown or "side by side" in shown
    armed = tmp_path / "armed.html"
    armed.write_text(f"<title>-</title><script>{ACT}</script>")
    assert "<title>ran</title>" in dump(armed)  # the browser would have run it


def dump(path: Path) -> str:
    """The page after a browser has opened it."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    profile = f"--user-data-dir={path.parent / 'profile'}"
    command = [str(CHROMIUM), *flags, profile, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_the_verdict_comes_first_and_in_words(tmp_path):
    better = write_report(write_run(tmp_path / "better")).read_text(encoding="utf-8")
    assert re.search(r"better by 0\.\d+ \[0\.\d+, 0\.\d+\]", better)
    assert better.index("better by") < better.index("<h2>")
    same = {"right": lambda x: 0.5}
    unclear = write_report(write_run(tmp_path / "same", num_held=20, curves=same)).read_text(encoding="utf-8")
    assert "not distinguishable from noise" in unclear
    worse = write_run(tmp_path / "worse", curves={"held_out": lambda x: 0.6 - 0.4 * x})
    assert "worse by" in write_report(worse).read_text(encoding="utf-8")
    blind = write_report(write_run(tmp_path / "blind", num_held=0)).read_text(encoding="utf-8")
    assert "No problems were held out" in blind


def test_everything_that_was_logged_is_drawn_and_nothing_else(tmp_path):
    text = write_report(write_run(tmp_path / "a", update=lambda x: {"kl": 0.1, "memory/peak_mb": 900.0})).read_text()
    titles = re.findall(r"<figcaption>\s*<h3>([^<]+?) ?<", text)
    assert titles[:3] == ["Reward", "Held-out accuracy", "Groups with signal"]
    assert {"KL", "Memory", "Entropy", "Speed"} <= set(titles)
    plain = write_report(write_run(tmp_path / "b")).read_text(encoding="utf-8")
    assert "<h3>KL" not in plain
    assert "<h3>Memory" not in plain
    assert plain.count("<svg") == plain.count("<figcaption>")


def test_the_same_run_gives_the_same_page(tmp_path):
    folder = write_run(tmp_path / "run")
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_pictures_take_the_colours_of_the_page(tmp_path):
    text = write_report(write_run(tmp_path / "run")).read_text(encoding="utf-8")
    pictures = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--line-1)" in pictures
    assert not re.search(r"#[0-9a-f]{6}|font-family|xmlns|<style|<metadata", pictures)
    inner = re.findall(r'id="([^"]+)"', text)
    assert len(inner) == len(set(inner))


def test_a_run_that_goes_on_is_shown_and_comes_back_by_itself(tmp_path):
    folder = write_run(tmp_path / "run", finished=0.5)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "rew')
    text = write_report(folder, refresh=True).read_text(encoding="utf-8")
    assert '<meta http-equiv="refresh"' in text
    assert "12 of 24 steps" in text
    assert "Not finished" in text
    done = write_report(write_run(tmp_path / "done"), refresh=True).read_text(encoding="utf-8")
    assert '<meta http-equiv="refresh"' not in done


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    assert "0 of 24 steps" in write_report(write_run(tmp_path / "run", finished=0.0)).read_text(encoding="utf-8")


def test_a_single_step_and_values_below_zero_can_be_drawn(tmp_path):
    write_report(write_run(tmp_path / "one", steps=1))
    below = write_report(write_run(tmp_path / "below", update=lambda x: {"kl": -0.01})).read_text(encoding="utf-8")
    assert "<h3>KL" in below


def test_several_runs_stand_side_by_side(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "first")
    write_run(tmp_path / "second", seed=1)
    assert main(["report", "first", "second"]) == 0
    assert capsys.readouterr().out == "comparison.html\n"
    text = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert text.index("first") < text.index("second")
    assert text.count("better by") == 2


def test_a_damaged_file_is_named_with_its_line(tmp_path):
    folder = write_run(tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([*lines[:3], "{broken", *lines[4:]]) + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:4"):
        read_run(folder)


def test_diagnose_and_report_need_no_torch_and_drive_no_terminal(tmp_path):
    folder = poisoned(tmp_path / "run")
    for arguments in (["diagnose", str(folder)], ["report", str(folder)], ["report", str(folder), "--watch"]):
        code = f"import sys; from grpocket.cli import main; main({arguments!r}); assert 'torch' not in sys.modules"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert not set(done.stdout) & set("\x1b\x00\u202e")


def test_diagnose_says_what_was_found_or_what_was_looked_for(tmp_path, capsys):
    assert main(["diagnose", str(write_run(tmp_path / "well"))]) == 0
    out = capsys.readouterr().out
    assert out.startswith("nothing wrong found in 24 steps, 768 answers")
    assert "the gradient explodes" in out
    assert main(["diagnose", str(write_run(tmp_path / "ill", num_problems=8))]) == 0
    out = capsys.readouterr().out
    assert "warning: problems repeat." in out
    assert "remedy: use more problems" in out
    assert "Seen after step 5, last after step 24." in out
    assert main(["diagnose", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_every_finding_and_curve_is_explained():
    from grpocket.report.diagnose import NAMES
    from grpocket.report.page import METRICS

    text = (Path(__file__).parent.parent / "docs" / "reading-a-run.md").read_text(encoding="utf-8").lower()
    for name in (*NAMES, "reward", "held-out accuracy", *(title.lower() for title, _, _ in METRICS)):
        assert f"**{name}**" in text, name
