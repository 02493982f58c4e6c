import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from fastdecode import __version__
from fastdecode.cli import app
from tests import smollm2

runner = CliRunner()


def run(*arguments: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "fastdecode.cli", *arguments], capture_output=True, text=True, **kwargs)


@pytest.mark.parametrize("command", ["generate", "chat", "diffuse", "env", "pull", "demo", "acceptance", "bench", "train"])
def test_every_command_has_help(command):
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0 and "Usage" in result.output


def test_env_json_names_every_operation():
    from fastdecode import ops

    facts = json.loads(runner.invoke(app, ["env", "--json"]).stdout)
    assert facts["versions"]["fastdecode"] == __version__
    assert {name for name in ops.__all__ if name.islower() and name != "implementation"} <= set(facts["operations"])
    assert facts["read_bandwidth_gb_per_s"]["memory"] > 0


def test_wrong_values_end_with_one_line_and_code_2():
    result = run("pull", "no-such-model")
    assert result.returncode == 2 and "no-such-model" in result.stderr and "Traceback" not in result.stderr
    result = run("generate", "hi", "--model", "/nowhere/at/all")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert run("generate", "hi", "--max-new-tokens", "0").returncode == 2


@pytest.mark.model
def test_generate_streams_text_and_prints_statistics():
    smollm2.path()
    result = run("generate", "Name one color.", "--max-new-tokens", "8", "--stats")
    assert result.returncode == 0 and result.stdout.strip() and "mean acceptance length" in result.stderr


@pytest.mark.model
def test_pull_prints_the_directory():
    assert run("pull", "SMOLLM2-135M-instruct", "--print-path").stdout.strip() == smollm2.path()


@pytest.mark.model
def test_chat_answers_and_ends_at_an_empty_line():
    result = run("chat", "--max-new-tokens", "6", input="hello\n\n")
    assert result.returncode == 0 and len(result.stdout.strip()) > 2


@pytest.mark.model
def test_bench_step_writes_its_report(tmp_path):
    report = tmp_path / "step.json"
    result = run("bench", "step", "--widths", "1,4", "--contexts", "16,40", "--repeats", "2", "--json", str(report))
    assert result.returncode == 0, result.stderr
    steps = json.loads(report.read_text())["steps"]
    assert [(s["context"], s["width"]) for s in steps] == [(16, 1), (16, 4), (40, 1), (40, 4)]
    assert all(s["milliseconds"] > 0 and s["of_floor"] > 0 for s in steps) and steps[0]["of_one_token"] == 1
    assert run("bench", "step", "--widths", "1,x").returncode == 2


@pytest.mark.model
def test_bench_writes_its_report(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"question_id": 1, "category": "qa", "turns": ["Say hi hi hi."]}) + "\n")
    report = tmp_path / "report.json"
    result = run("bench", "speculative", "--prompts", str(prompts), "--methods", "hf,hf-prompt-lookup,openvino-genai,plain,plain-int8,suffix,auto-int8", "--max-new-tokens", "8", "--repeats", "1", "--dtype", "float32", "--json", str(report), "--plot", str(tmp_path / "speeds.png"))
    assert result.returncode == 0, result.stderr
    data = json.loads(report.read_text())
    methods = data["methods"]
    assert data["schema"] == 1 and set(methods) == {"hf", "hf-prompt-lookup", "openvino-genai", "plain", "plain-int8", "suffix", "auto-int8"}
    assert methods["suffix"]["speedup_vs_plain"]["overall"]["ratio"] > 0
    assert methods["suffix"]["identical_to_plain"] == methods["auto-int8"]["identical_to_plain"] == 1
    assert methods["openvino-genai"] == {"missing": "openvino-genai is not installed"} or methods["openvino-genai"]["tokens_per_second"] > 0
    assert (tmp_path / "speeds.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.model
def test_acceptance_compares_a_pair(tmp_path):
    prompts, report = tmp_path / "prompts.jsonl", tmp_path / "report.json"
    prompts.write_text(json.dumps({"question_id": 1, "category": "qa", "turns": ["Say hi hi hi."]}) + "\n")
    result = run("acceptance", "--prompts", str(prompts), "--without-layers", "12,18", "--temperature", "1.0", "--n", "2", "3", "--json", str(report), "--plot", str(tmp_path / "rates.png"))
    assert result.returncode == 0, result.stderr
    assert [(r["temperature"], r["drafts"]) for r in json.loads(report.read_text())["rates"]] == [(1.0, 2), (1.0, 3)]
    rates = json.loads(report.read_text())["rates"][0]["verifiers"]
    assert rates["recursive"]["rate"] <= rates["transport"]["rate"] + 1e-6 and "transport" in result.stdout
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert run("acceptance", "--prompts", str(prompts)).returncode == 2


def test_diffuse_writes_what_it_is_asked_for(tmp_path):
    trace, heatmap = tmp_path / "trace.json", tmp_path / "heatmap.png"
    result = run("diffuse", r"Write as JSON: name=Ada city=Bern\n", "--show", "--stats", "--trace", str(trace), "--heatmap", str(heatmap))
    assert result.returncode == 0, result.stderr
    assert "passes" in result.stderr and result.stdout.strip()
    data = json.loads(trace.read_text())
    assert sorted(p for p, _, _ in data["commits"])[: len(data["tokens"])] == list(range(len(data["tokens"])))
    assert heatmap.read_bytes().startswith(b"\x89PNG")
    result = run("diffuse", r"Compute 27+15:\n", "--preset", "llada", "--temperature", "0.1", "--top-p", "0.9", "--top-k", "20", "--cfg-scale", "0.5", "--seed", "1")
    assert result.returncode == 0 and result.stdout.strip() == "42", result.stderr
    result = run("diffuse", r"Compute 27+15:\n", "--top-p", "2")
    assert result.returncode == 2 and "top_p=2.0 must lie above 0" in result.stderr and "Traceback" not in result.stderr
    result = run("diffuse", "hello", "--preset", "fastest")
    assert result.returncode == 2 and "preset='fastest' is unknown" in result.stderr and "Traceback" not in result.stderr


def test_bench_diffusion_writes_its_report(tmp_path):
    report, plot = tmp_path / "report.json", tmp_path / "quality.png"
    result = run("bench", "diffusion", "--methods", "peer:llada,llada,top-4,threshold-0.9,freedave,drafts-4", "--tasks", "copy,shuffle", "--examples", "2", "--json", str(report), "--plot", str(plot))
    assert result.returncode == 0, result.stderr
    data = json.loads(report.read_text())
    methods = data["methods"]
    assert data["schema"] == 1 and set(methods) == {"peer:llada", "llada", "top-4", "threshold-0.9", "freedave", "drafts-4"}
    for values in methods.values():
        assert set(values["per_task"]) == {"copy", "shuffle"} and values["tokens_per_second"] > 0 and values["speedup_vs_peer"] > 0
        assert all(0 <= v["exact_match"] <= 1 and v["nfe"] >= 1 for v in values["per_task"].values())
    assert methods["llada"]["nfe"] == 32 and methods["top-4"]["nfe"] == 8 and methods["freedave"]["nfe"] <= 32
    assert methods["drafts-4"]["same_as_llada"] == 1.0 and methods["drafts-4"]["nfe"] < 32
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert run("bench", "diffusion", "--tasks", "chess").returncode == 2


def test_train_diffusion_resumes(tmp_path):
    for _ in range(2):
        result = run("train", "diffusion", "--out", str(tmp_path / "run"), "--steps", "2")
        assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "state.json").read_text())["step"] == 2
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    result = run("train", "diffusion", "--out", str(tmp_path / "run"), "--steps", "3")
    assert result.returncode == 2 and "another recipe" in result.stderr


def test_a_missing_asset_says_what_to_install():
    from fastdecode import assets

    with pytest.raises(RuntimeError, match="fastdecode-assets.*pip install ./assets"):
        assets.find("no-such-asset")
