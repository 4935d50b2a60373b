"""Weights from a hub: fetched, resumed, compared, converted, and put in their place all at once."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from soundmill.producer.cli import build_app
from soundmill.storage.catalog import Model, load_catalog
from soundmill.storage.checkpoints import RECORD, Installation, Record, revision_of, staging_of
from soundmill.storage.repository import HubName
from soundmill.storage.settings import Settings
from soundmill.worker.checkpoint_check import damage_of
from soundmill.worker.checkpoint_examination import examine
from soundmill.worker.errors import DownloadDamaged, HubRefused, HubUnreachable, NoRoom, PullBusy, PullFailed
from soundmill.worker.pulling.hub import checked_path, open_hub
from soundmill.worker.pulling.pull import Pull, Pulled
from soundmill.worker.pulling.staging import pull_lock
from soundmill.worker.pulling.transfer import PIECE

from .hubs import HubServer, serving

pytest.importorskip("huggingface_hub")  # of the extra `models`
pytest.importorskip("requests")

DATA = Path(__file__).parent.parent / "data"
CSM = load_catalog().get("csm-1b")
MOSS = load_catalog().get("moss-tts-nano-100m")
CAPTIONER = load_catalog().get("acestep-captioner")
ALIGNER = load_catalog().get("mms-300m-aligner")

SHARD = "transformers-00001-of-00001.safetensors"
BIG = 300_000


def tensors(sizes: dict[str, int]) -> bytes:
    """A safetensors file with tensors of so many bytes."""
    header, end = {}, 0
    for name, size in sizes.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(index % 251 for index in range(end))


def published_csm() -> dict[str, bytes]:
    return {
        "config.json": b"{}",
        "tokenizer.json": b"{}" * 600,
        "tokenizer_config.json": b"{}",
        "README.md": b"---\nlicense: apache-2.0\n---\n",
        "transformers.safetensors.index.json": json.dumps({"weight_map": {"a": SHARD}}).encode(),
        SHARD: tensors({"a": BIG}),
        "model.safetensors": tensors({"other": 5000}),
        "ckpt.pt": bytes(4000),
        "prompts/a.wav": bytes(3000),
    }


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serving() as server:
        server.publish("sesame/csm-1b", published_csm())
        server.publish("sesameAILabs/csm-1b", published_csm())
        yield server


@pytest.fixture
def settings(hub: HubServer, tmp_path: Path) -> Settings:
    return Settings(
        state_dir=tmp_path / "state",
        models_dir=tmp_path / "models",
        huggingface_url=hub.url,
        modelscope_url=hub.url,
    )


def pull(settings: Settings, model: Model = CSM, hub: HubName = "huggingface", **options: Any) -> Pulled:
    said: list[str] = options.pop("said", [])

    @contextmanager
    def begin(total: int) -> Iterator[Any]:
        done = [0]

        def advance(more: int) -> None:
            done[0] += more
            assert 0 <= done[0] <= total

        yield advance
        assert done[0] == total

    work = Pull(
        settings,
        model,
        open_hub(settings, hub),
        say=said.append,
        begin=begin,
        waits_s=(0.01, 0.01),
        **options,
    )
    return work.run()


def state(settings: Settings, model: Model = CSM) -> str:
    return Installation.find(settings, model).state


# -- what arrives --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_what_is_needed_arrives_and_what_is_not_stays_away(
    settings: Settings, hub: HubServer, name: HubName
) -> None:
    said: list[str] = []

    done = pull(settings, hub=name, said=said)

    published = published_csm()
    there = {str(path.relative_to(done.folder)) for path in done.folder.rglob("*") if path.is_file()}
    spare = {"model.safetensors", "ckpt.pt", "prompts/a.wav"}
    assert there == published.keys() - spare | {RECORD}
    assert all((done.folder / file).read_bytes() == published[file] for file in there - {RECORD})
    assert {path for path, _ in hub.requests} == published.keys() - spare
    assert "left out: model.safetensors, ckpt.pt, prompts/a.wav (" in said[0]
    assert state(settings) == "installed"
    assert not staging_of(done.folder).exists()


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_the_revision_is_written_beside_the_weights(
    settings: Settings, hub: HubServer, name: HubName
) -> None:
    repository = CSM.repositories[0].names[name][0]
    commit = hub.publish(repository, published_csm() | {"config.json": b'{"of": "a tag"}'}, "v1")

    folder = pull(settings, hub=name, revision="v1").folder

    record = Record.read(folder)
    assert record is not None
    (origin,) = record.origins
    assert (origin.hub, origin.name, origin.revision, origin.commit) == (name, repository, "v1", commit)
    assert origin.files["config.json"][0] == len(b'{"of": "a tag"}')
    assert origin.left_out["ckpt.pt"] == 4000
    assert revision_of(folder) == f"{repository}@{commit}" == Installation.find(settings, CSM).revision


def test_a_second_pull_fetches_nothing(settings: Settings, hub: HubServer) -> None:
    pull(settings)
    hub.requests.clear()

    assert pull(settings).up_to_date
    assert hub.requests == []


def test_a_file_that_was_changed_on_the_disk_is_fetched_again(settings: Settings, hub: HubServer) -> None:
    folder = pull(settings).folder
    (folder / "tokenizer.json").write_bytes(b"spoilt")
    hub.requests.clear()

    assert not pull(settings).up_to_date
    assert [path for path, _ in hub.requests] == ["tokenizer.json"]
    assert (folder / "tokenizer.json").read_bytes() == published_csm()["tokenizer.json"]


def test_files_that_somebody_put_there_are_kept_and_only_the_others_are_fetched(
    settings: Settings, hub: HubServer
) -> None:
    folder = settings.checkpoint_of(CSM.id)
    folder.mkdir(parents=True)
    (folder / SHARD).write_bytes(published_csm()[SHARD])
    (folder / "config.json").write_bytes(b"[]")
    (folder / "voices").mkdir()
    (folder / "voices" / "me.wav").write_bytes(b"sound")
    (folder / "older.safetensors").write_bytes(b"weights")
    assert state(settings) == "incomplete"

    done = pull(settings)

    assert SHARD not in {path for path, _ in hub.requests}
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "voices" / "me.wav").read_bytes() == b"sound"
    assert not (folder / "older.safetensors").exists()
    assert done.kept is not None
    assert (done.kept / "older.safetensors").read_bytes() == b"weights"
    assert (done.kept / "config.json").read_bytes() == b"[]"


def test_another_revision_takes_the_place_of_the_present_at_once(settings: Settings, hub: HubServer) -> None:
    folder = pull(settings).folder
    before = (folder / "config.json").open("rb")  # as a worker that has it open
    hub.publish("sesame/csm-1b", published_csm() | {"config.json": b"[2]"}, "v2")
    hub.requests.clear()

    done = pull(settings, revision="v2")

    assert [path for path, _ in hub.requests] == ["config.json"]
    assert (folder / "config.json").read_bytes() == b"[2]"
    assert before.read() == b"{}"
    before.close()
    assert done.kept is None
    assert [path.name for path in folder.parent.iterdir() if ".old" in path.name] == []


# -- what breaks off -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_connection_that_is_cut_goes_on_where_it_was(
    settings: Settings, hub: HubServer, name: HubName
) -> None:
    hub.cuts[SHARD] = [6 * PIECE, 3 * PIECE + 5]

    folder = pull(settings, hub=name).folder

    assert (folder / SHARD).read_bytes() == published_csm()[SHARD]
    ranges = [wanted for path, wanted in hub.requests if path == SHARD]
    assert ranges == [None, f"bytes={6 * PIECE}-", f"bytes={9 * PIECE}-"]


def test_an_interrupted_pull_looks_like_none_and_goes_on_later(settings: Settings, hub: HubServer) -> None:
    hub.cuts[SHARD] = [6 * PIECE]
    hub.statuses_after_cuts[SHARD] = [503] * 2

    with pytest.raises(HubUnreachable, match="status 503"):
        pull(settings)

    folder = settings.checkpoint_of(CSM.id)
    assert state(settings) == "interrupted"
    assert not folder.exists()
    assert (staging_of(folder) / f"{SHARD}.part").stat().st_size == 6 * PIECE
    hub.requests.clear()
    pull(settings)
    assert hub.requests == [(SHARD, f"bytes={6 * PIECE}-")]
    assert (folder / SHARD).read_bytes() == published_csm()[SHARD]


def test_a_hub_that_knows_no_ranges_begins_anew(settings: Settings, hub: HubServer) -> None:
    hub.ignores_ranges = True
    hub.cuts[SHARD] = [6 * PIECE]

    folder = pull(settings).folder

    assert (folder / SHARD).read_bytes() == published_csm()[SHARD]


def test_a_beginning_of_something_else_is_thrown_away(settings: Settings, hub: HubServer) -> None:
    staging = staging_of(settings.checkpoint_of(CSM.id))
    staging.mkdir(parents=True)
    (staging / f"{SHARD}.part").write_bytes(bytes(1000))  # of another revision
    (staging / "tokenizer.json.part").write_bytes(bytes(10_000))  # longer than it is now

    folder = pull(settings).folder

    assert (folder / SHARD).read_bytes() == published_csm()[SHARD]
    assert [wanted for path, wanted in hub.requests if path == SHARD] == ["bytes=1000-", None]


# -- what is wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
@pytest.mark.parametrize(("file", "words"), [(SHARD, "has SHA-256"), ("config.json", "checksum|SHA-256")])
def test_a_file_that_is_not_the_listed_one_is_refused(
    settings: Settings, hub: HubServer, name: HubName, file: str, words: str
) -> None:
    hub.lies[file] = bytes(len(published_csm()[file]))

    with pytest.raises(DownloadDamaged, match=words):
        pull(settings, hub=name)

    assert state(settings) == "interrupted"
    hub.lies.clear()
    assert (pull(settings, hub=name).folder / file).read_bytes() == published_csm()[file]


def test_a_file_that_goes_on_too_long_is_refused(settings: Settings, hub: HubServer) -> None:
    hub.lies[SHARD] = published_csm()[SHARD] + bytes(10)

    with pytest.raises(DownloadDamaged, match="is longer than"):
        pull(settings)
    assert not (staging_of(settings.checkpoint_of(CSM.id)) / f"{SHARD}.part").exists()


def test_a_file_that_ends_too_early_is_refused(settings: Settings, hub: HubServer) -> None:
    hub.lies[SHARD] = published_csm()[SHARD][:-1]

    with pytest.raises(HubUnreachable, match=f"{SHARD} cannot be fetched"):
        pull(settings)


def test_weights_that_are_cut_off_on_the_hub_itself_are_refused(settings: Settings, hub: HubServer) -> None:
    hub.publish("sesame/csm-1b", published_csm() | {SHARD: published_csm()[SHARD][:-7]})

    with pytest.raises(DownloadDamaged, match="is truncated"):
        pull(settings)
    assert state(settings) == "interrupted"


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_revision_that_does_not_exist_is_named(settings: Settings, name: HubName) -> None:
    with pytest.raises(HubRefused, match=r"has no revision 'v9'.*leave out --revision"):
        pull(settings, hub=name, revision="v9")
    assert state(settings) == "absent"


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_repository_that_does_not_exist_is_named(settings: Settings, hub: HubServer, name: HubName) -> None:
    hub.files.clear()
    with pytest.raises(HubRefused, match="csm-1b"):
        pull(settings, hub=name)


def test_terms_that_were_not_accepted_are_told(settings: Settings, hub: HubServer) -> None:
    hub.gated.add("sesame/csm-1b")
    with pytest.raises(HubRefused, match=r"accept them there, then log in with `hf auth login`"):
        pull(settings)


def test_a_file_that_is_refused_is_named(settings: Settings, hub: HubServer) -> None:
    hub.statuses[SHARD] = [403]
    with pytest.raises(HubRefused, match=f"refuses {SHARD} with status 403; the terms"):
        pull(settings)


def test_another_model_in_the_repository_is_told(settings: Settings, hub: HubServer) -> None:
    hub.publish("sesame/csm-1b", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    with pytest.raises(HubRefused, match=r"has no tokenizer\.json, tokenizer_config\.json, transformers"):
        pull(settings)


def test_a_model_that_a_hub_is_not_known_to_have_is_told(settings: Settings) -> None:
    with pytest.raises(HubRefused, match="is not known to be on modelscope"):
        pull(settings, ALIGNER, hub="modelscope")


def test_a_model_without_weights_has_nothing_to_fetch(settings: Settings) -> None:
    with pytest.raises(PullFailed, match="acoustic has no weights"):
        pull(settings, load_catalog().get("acoustic"))


def test_a_hub_that_is_not_there_is_told(settings: Settings, hub: HubServer, tmp_path: Path) -> None:
    away = settings.model_copy(
        update={"huggingface_url": "http://127.0.0.1:9", "modelscope_url": "http://127.0.0.1:9"}
    )
    for name in ("huggingface", "modelscope"):
        with pytest.raises(HubUnreachable, match=r"http://127\.0\.0\.1:9 cannot be reached"):
            pull(away, hub=name)


# -- who lists files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
@pytest.mark.parametrize(
    "path", ["../evil", "/etc/cron.d/evil", "a/../../evil", "a//b", "a\\..\\b", "soundmill.json"]
)
def test_a_name_that_leads_out_of_the_folder_ends_the_pull(
    settings: Settings, hub: HubServer, name: HubName, path: str
) -> None:
    hub.extra.append(path)

    with pytest.raises(DownloadDamaged, match="do not use this one"):
        pull(settings, hub=name)
    assert hub.requests == []


@pytest.mark.parametrize("path", ["", ".", "..", "~/x", "a/~b", "a\nb", "C:x", "a\x00", "x" * 2000, None, 7])
def test_what_is_no_path_is_refused(path: object) -> None:
    with pytest.raises(DownloadDamaged):
        checked_path(path)


def test_names_that_differ_in_their_case_only_are_refused(settings: Settings, hub: HubServer) -> None:
    hub.extra.append("CONFIG.json")
    with pytest.raises(DownloadDamaged, match=r"lists CONFIG\.json twice"):
        pull(settings)


def test_a_link_in_the_folder_of_the_pull_is_not_followed(settings: Settings, tmp_path: Path) -> None:
    staging = staging_of(settings.checkpoint_of(CSM.id))
    staging.mkdir(parents=True)
    (tmp_path / "target").write_bytes(b"mine")
    (staging / "config.json.part").symlink_to(tmp_path / "target")

    with pytest.raises(PullFailed, match="is a link, which no pull makes"):
        pull(settings)
    assert (tmp_path / "target").read_bytes() == b"mine"


# -- room and company ----------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    settings: Settings, hub: HubServer
) -> None:
    hub.sizes[SHARD] = 10**15

    with pytest.raises(NoRoom, match=r"csm-1b needs 1000000\.0 GB more in"):
        pull(settings)
    assert hub.requests == []


def test_a_disk_that_fills_up_keeps_what_it_has(settings: Settings, hub: HubServer) -> None:
    """The kernel itself refuses to let a file grow, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12 * PIECE, before[1]))
    try:
        with pytest.raises(NoRoom, match="free some space: the same command goes on"):
            pull(settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert state(settings) == "interrupted"
    hub.requests.clear()

    pull(settings)

    assert [wanted for path, wanted in hub.requests if path == SHARD] == [f"bytes={12 * PIECE}-"]
    assert state(settings) == "installed"


def test_two_pulls_at_once_do_not_meet(settings: Settings, hub: HubServer) -> None:
    with pull_lock(settings.checkpoint_of(CSM.id).resolve()):
        with pytest.raises(PullBusy, match=f"process {os.getpid()} fetches into"):
            pull(settings)
    assert hub.requests == []
    pull(settings)


def test_a_pull_that_is_killed_leaves_nothing_that_looks_installed(
    settings: Settings, hub: HubServer
) -> None:
    folder = settings.checkpoint_of(CSM.id)
    part = staging_of(folder) / f"{SHARD}.part"
    hub.stalls[SHARD] = 9 * PIECE
    other = subprocess.Popen(
        [sys.executable, "-m", "soundmill.producer", "models", "pull", "csm-1b"],
        env=os.environ | settings.environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size):
            assert time.monotonic() < until
            time.sleep(0.02)
        with pytest.raises(PullBusy, match=f"process {other.pid} fetches into"):
            pull(settings)
    finally:
        other.kill()
        other.wait()
    assert state(settings) == "interrupted"
    hub.stalls.clear()
    hub.requests.clear()

    pull(settings)

    assert [path for path, _ in hub.requests] == [SHARD]
    assert (folder / SHARD).read_bytes() == published_csm()[SHARD]


def test_a_pull_that_was_killed_while_it_changed_the_folders_goes_back_first(
    settings: Settings, hub: HubServer
) -> None:
    folder = pull(settings).folder
    (folder / "voices").mkdir()
    (folder / "voices" / "me.wav").write_bytes(b"sound")
    folder.rename(folder.with_name(f".{folder.name}.old-1234"))
    hub.requests.clear()

    pull(settings)

    assert hub.requests == []
    assert (folder / "voices" / "me.wav").read_bytes() == b"sound"
    assert [path.name for path in folder.parent.iterdir() if "old" in path.name] == []


def test_a_token_goes_to_the_hub_and_not_to_where_it_leads(
    settings: Settings, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving() as elsewhere:
        elsewhere.files = hub.files
        hub.redirects = elsewhere.url
        pull(settings)

        assert set(hub.tokens) == {"Bearer hf_secret"}
        assert set(elsewhere.tokens) == {None}


# -- several repositories, shards, pickles -------------------------------------------------------------


def test_shards_that_hold_nothing_of_use_stay_away(settings: Settings, hub: HubServer) -> None:
    shards = {f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)}
    weight_map = {
        "thinker.model.norm.weight": "model-00001-of-00003.safetensors",
        "thinker.audio_tower.a": "model-00002-of-00003.safetensors",
        "thinker.visual.b": "model-00002-of-00003.safetensors",
        "talker.c": "model-00003-of-00003.safetensors",
    }
    files = {shard: tensors({"x": 2000}) for shard in shards}
    small = dict.fromkeys(("config.json", "tokenizer.json"), b"{}")
    index = {"model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode()}
    hub.publish("ACE-Step/acestep-captioner", files | small | index | {"spk_dict.pt": bytes(9)})
    said: list[str] = []

    folder = pull(settings, CAPTIONER, said=said).folder

    assert not (folder / "model-00003-of-00003.safetensors").exists()
    assert not (folder / "spk_dict.pt").exists()
    assert "left out: model-00003-of-00003.safetensors, spk_dict.pt" in said[0]
    assert damage_of(folder) is None
    assert pull(settings, CAPTIONER).up_to_date
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors is missing" in str(damage_of(folder))


@pytest.fixture
def moss(hub: HubServer) -> None:
    for source, name in (("tts", "MOSS-TTS-Nano"), ("codec", "MOSS-Audio-Tokenizer-Nano")):
        files = {path.name: path.read_bytes() for path in (DATA / "moss" / source).iterdir()}
        hub.publish(f"OpenMOSS-Team/{name}", files)


@pytest.mark.usefixtures("moss")
@pytest.mark.slow
def test_a_model_of_two_repositories_is_fetched_whole_and_its_pickle_converted(
    settings: Settings, hub: HubServer
) -> None:
    said: list[str] = []

    done = pull(settings, MOSS, said=said)

    codec = done.folder / "MOSS-Audio-Tokenizer-Nano"
    assert (codec / "config.json").is_file()
    assert (done.folder / "model.safetensors").is_file()
    assert not (done.folder / "pytorch_model.bin").exists()
    assert said[-1] == "converting pytorch_model.bin to model.safetensors"
    language, tokenizer = done.record.origins
    assert language.name == "OpenMOSS-Team/MOSS-TTS-Nano"  # the other of its names does not exist here
    assert language.converted.keys() == {"pytorch_model.bin"}
    assert "model.safetensors" in language.files
    assert tokenizer.folder == "MOSS-Audio-Tokenizer-Nano"
    assert done.record.revision == f"{language.name}@{language.commit} {tokenizer.name}@{tokenizer.commit}"
    assert state(settings, MOSS) == "installed"
    examined = {finding.question: finding for finding in examine(MOSS, done.folder)}
    assert all(finding.passes for finding in examined.values())
    assert examined["checksums"].answer == f"all files are those of {done.record.revision}"
    hub.requests.clear()
    assert pull(settings, MOSS).up_to_date
    assert hub.requests == []


def test_a_pickle_that_was_put_there_by_hand_is_not_installed(settings: Settings) -> None:
    folder = settings.checkpoint_of(MOSS.id)
    shutil.copytree(DATA / "moss" / "tts", folder)
    assert Installation.find(settings, MOSS).missing == (
        "MOSS-Audio-Tokenizer-Nano/config.json",
        "MOSS-Audio-Tokenizer-Nano/model.safetensors.index.json",
    )
    shutil.copytree(DATA / "moss" / "codec", folder.parent / "MOSS-Audio-Tokenizer-Nano")
    assert state(settings, MOSS) == "unconverted"


# -- the command ---------------------------------------------------------------------------------------


def command(settings: Settings, *words: str) -> Result:
    return CliRunner().invoke(build_app(), ["models", *words], env=settings.environment())


def test_the_command_tells_what_it_did(settings: Settings) -> None:
    done = command(settings, "pull", "csm-1b", "--json")

    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["folder"] == str(settings.checkpoint_of("csm-1b"))
    assert told["origins"][0]["files"]["config.json"][0] == 2
    listed = json.loads(command(settings, "list", "--json").stdout)
    entry = next(entry for entry in listed if entry["id"] == "csm-1b")
    assert (entry["weights"], entry["revision"]) == ("installed", told["revision"])


def test_without_a_network_the_command_says_which_files_to_put_where(settings: Settings) -> None:
    away = settings.model_copy(update={"huggingface_url": "http://127.0.0.1:9"})

    done = command(away, "pull", "moss-tts-nano-100m")

    folder = settings.checkpoint_of("moss-tts-nano-100m")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "http://127.0.0.1:9 cannot be reached" in done.stderr
    assert "take from http://127.0.0.1:9/OpenMOSS-Team/MOSS-TTS-Nano-100M or " in done.stderr
    assert f"  {folder}/tokenizer.model  (470,897 bytes)\n" in done.stderr
    assert f"  {folder}/pytorch_model.bin  (about 234.7 MB)\n" in done.stderr
    assert f"  {folder}/MOSS-Audio-Tokenizer-Nano/config.json  (a few kB)\n" in done.stderr
    assert f"soundmill models convert {folder}\n" in done.stderr
    assert "Then: soundmill models check moss-tts-nano-100m\n" in done.stderr


def test_with_weights_there_and_no_hub_the_command_says_that_they_can_be_served(settings: Settings) -> None:
    revision = pull(settings).record.revision
    away = settings.model_copy(update={"huggingface_url": "http://127.0.0.1:9"})

    done = command(away, "pull", "csm-1b")

    assert done.exit_code == 1
    assert f"has {revision}, which can be served" in done.stderr
    assert "by hand" not in done.stderr


def test_what_a_hub_lists_is_told_where_it_refuses_a_file(settings: Settings, hub: HubServer) -> None:
    hub.statuses[SHARD] = [403]

    done = command(settings, "pull", "csm-1b")

    assert done.exit_code == 1
    assert f"the hub refuses {SHARD} with status 403" in done.stderr
    size = len(published_csm()[SHARD])
    assert f"  {settings.checkpoint_of('csm-1b') / SHARD}  ({size:,} bytes)\n" in done.stderr


def test_an_unknown_hub_or_model_is_a_wrong_command(settings: Settings) -> None:
    assert command(settings, "pull", "csm-1b", "--from", "gopher").exit_code == 2
    wrong = command(settings, "pull", "csm")
    assert wrong.exit_code == 2
    assert "did you mean 'csm-1b'?" in wrong.stderr
