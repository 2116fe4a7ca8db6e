"""Two institutions that name the same articles differently end with one catalogue, and show each other no others."""

from __future__ import annotations

import base64
import hashlib
import json
import stat

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner
from nacl.signing import SigningKey

from fedrec import Plan, simulate
from fedrec.cli.main import cli
from fedrec.errors import Refused, WrongInput
from fedrec.exchange import psi
from fedrec.institution import align, audit, shared_items
from fedrec.institution.align_files import Party, seal, unseal
from fedrec.institution.intake import index_frame, take_in_folder
from fedrec.institution.site import Keys
from fedrec.institution.store import Store
from fedrec.models import Ease

NAMES = ["aurora", "borealis", "delphi"]
SCHEMA = 'title = "T"\n[columns]\nuser = "user"\nitem = "item"\nrating = "rating"\ntime = "timestamp"\n[rating]\nmin = 1\nmax = 5\n'
# articles 0-19 at aurora, 8-27 at borealis, 17-36 at delphi: 12 in common with borealis, 3 with delphi
STOCK = {"aurora": range(20), "borealis": range(8, 28), "delphi": range(17, 37)}


def title(article):
    return f"Élan Canary {article:03d}"


def spelt(name, article):
    """Borealis writes without case, with double blanks and in another Unicode form."""
    return (
        title(article)
        if name != "borealis"
        else "  " + title(article).upper().replace("É", "E\u0301").replace(" ", "  ")
    )


def own_id(name, article):
    return f"{name[0]}{article * 7 % 37:02d}"


def rows(name):
    draw = np.random.default_rng(ord(name[0]))
    cells = [(u, a) for u in range(30) for a in STOCK[name] if draw.random() < 0.3]
    return pd.DataFrame(
        [(f"{name}{u}", a, 1 + a % 5, 1000 + k) for k, (u, a) in enumerate(cells)],
        columns=["user", "article", "rating", "timestamp"],
    )


@pytest.fixture
def folders(tmp_path):
    found, text = {name: tmp_path / name for name in NAMES}, 'name = "c"\ntitle = "C"\n'
    for name, folder in found.items():
        (folder / "data").mkdir(parents=True)
        (folder / "site.toml").write_text(f'name = "{name}"\ntitle = "T"\nowner = "owner@x.example"\n')
        (folder / "schema.toml").write_text(SCHEMA)
        frame = rows(name)
        frame["item"] = [own_id(name, a) for a in frame["article"]]
        frame[["user", "item", "rating", "timestamp"]].to_csv(folder / "data" / "ratings.csv", index=False)
        pd.DataFrame([(own_id(name, a), spelt(name, a)) for a in STOCK[name]], columns=["item", "title"]).to_csv(
            folder / "items.csv", index=False
        )
        key = Keys.load_or_make(folder / "state").public
        text += f'[[member]]\nname = "{name}"\nfolder = "{name}"\nkey = "{key}"\n'
    (tmp_path / "consortium.toml").write_text(text)
    return found


def ask(folders, other, out):
    return align.begin(folders["aurora"], other, folders["aurora"] / "items.csv", "title", out)


def take(folders, name, file, out, most=None):
    return align.take(folders[name], file, folders[name] / "items.csv", "title", out, most)


def whole(folders, other, out):
    """All four steps; what each said."""
    said = [ask(folders, other, out)]
    said += [take(folders, other, out / f"{other}.request.json", out)]
    said += [take(folders, "aurora", out / "aurora.response.json", out)]
    return [*said, take(folders, other, out / f"{other}.result.json", out)]


def code(call, *given):
    with pytest.raises(Refused) as refused:
        call(*given)
    return refused.value.code


def names_of(folders, name):
    """Shared id by article."""
    back = {own_id(name, a): a for a in STOCK[name]}
    return {back[own]: item for own, item in shared_items.read(folders[name] / shared_items.NAME).items()}


def test_both_call_the_common_articles_alike_and_no_others(folders, tmp_path):
    said = whole(folders, "borealis", tmp_path / "out")
    ours, theirs = names_of(folders, "aurora"), names_of(folders, "borealis")
    assert ours == theirs
    assert sorted(ours) == list(range(8, 20))
    assert len(set(ours.values())) == 12
    assert [one.get("common") for one in said] == [None, None, 12, 12]
    assert (said[1]["asked"], said[2]["theirs"]) == (20, 20)
    lines = (tmp_path / "out" / "catalogue.csv").read_text().split()
    assert lines == ["item", *sorted(ours.values())]
    assert stat.S_IMODE((folders["borealis"] / shared_items.NAME).stat().st_mode) == 0o600


def forms(text):
    """A text as a file could hold it."""
    for data in (text.encode(), text.encode("utf-16-le"), text.casefold().encode()):
        yield data
        yield data.hex().encode()
        for shift in range(3):  # base64 has three alignments; the ends depend on the neighbours
            yield base64.b64encode(b"x" * shift + data)[4:-4]


def leaks(data, articles):
    return any(form in data for a in articles for form in forms(title(a)))


def test_no_key_stands_in_a_carried_file_nor_one_that_is_not_shared_in_what_is_sealed_there(folders, tmp_path):
    out = tmp_path / "out"
    whole(folders, "borealis", out)
    for file in sorted(out.glob("*.json")):
        assert not leaks(file.read_bytes(), range(28)), file.name
    for name, file in [
        ("borealis", "borealis.request"),
        ("aurora", "aurora.response"),
        ("borealis", "borealis.result"),
    ]:
        body = unseal(Party.of(folders[name]), (out / f"{file}.json").read_bytes()).body
        parts = [json.dumps(body, ensure_ascii=False).encode()]
        parts += [base64.b64decode(value) for value in body.values() if isinstance(value, str)]
        assert not any(leaks(part, [*range(8), *range(20, 28)]) for part in parts)
        if file == "borealis.result":  # control: the search finds the shared ones, which are told
            assert leaks(parts[0], range(8, 20))


def test_a_small_overlap_is_neither_counted_nor_used(folders, tmp_path):
    said = whole(folders, "delphi", tmp_path / "out")
    assert [one.get("common") for one in said] == [None, None, "fewer than 5", "fewer than 5"]
    body = unseal(Party.of(folders["delphi"]), (tmp_path / "out" / "delphi.result.json").read_bytes()).body
    assert body == {"ids": {}}
    assert not any((folders[name] / shared_items.NAME).exists() for name in NAMES)
    assert not (tmp_path / "out" / "catalogue.csv").exists()


def test_control_without_the_least_number_three_articles_are_told(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(align, "FEW", 1)
    assert whole(folders, "delphi", tmp_path / "out")[-1]["common"] == 3
    assert sorted(names_of(folders, "delphi")) == [17, 18, 19]


def test_each_file_is_taken_once_and_only_by_whom_it_is_for(folders, tmp_path):
    out = tmp_path / "out"
    whole(folders, "borealis", out)
    for name, file in [
        ("borealis", "borealis.request"),
        ("aurora", "aurora.response"),
        ("borealis", "borealis.result"),
    ]:
        assert code(take, folders, name, out / f"{file}.json", out) == "align.replay"
        assert code(take, folders, "delphi", out / f"{file}.json", out) == "align.other"


def test_the_answer_to_one_request_is_not_taken_for_another(folders, tmp_path):
    """Delphi's response is signed well, but nobody asked delphi in that session."""
    ask(folders, "borealis", tmp_path / "b")
    session = unseal(Party.of(folders["borealis"]), (tmp_path / "b" / "borealis.request.json").read_bytes()).session
    file = tmp_path / "swapped.json"
    file.write_bytes(seal(Party.of(folders["delphi"]), "response", "aurora", session, "", {}))
    assert code(take, folders, "aurora", file, tmp_path) == "align.replay"


def test_an_answer_to_another_file_of_the_same_session_is_refused(folders, tmp_path):
    """Borealis answers what aurora never sent; control: the same body as the answer to what it did send is taken."""
    ask(folders, "borealis", tmp_path)
    take(folders, "borealis", tmp_path / "borealis.request.json", tmp_path)
    there, file = Party.of(folders["borealis"]), tmp_path / "swapped.json"
    opened = unseal(Party.of(folders["aurora"]), (tmp_path / "aurora.response.json").read_bytes())
    file.write_bytes(seal(there, "response", "aurora", opened.session, "00" * 32, opened.body))
    assert code(take, folders, "aurora", file, tmp_path) == "align.replay"
    file.write_bytes(seal(there, "response", "aurora", opened.session, opened.before, opened.body))
    assert take(folders, "aurora", file, tmp_path)["common"] == 12


@pytest.mark.parametrize("ids", [{"élan canary 001": "s" + "0" * 24}, {}, {"few": 1}, 7], ids=repr)
def test_a_result_with_keys_that_are_not_its_own_or_ids_of_another_form_maps_nothing(folders, tmp_path, ids):
    ask(folders, "borealis", tmp_path)
    take(folders, "borealis", tmp_path / "borealis.request.json", tmp_path)
    sent = (tmp_path / "aurora.response.json").read_bytes()
    opened, file = unseal(Party.of(folders["aurora"]), sent), tmp_path / "result.json"
    before = hashlib.sha256(sent).hexdigest()
    file.write_bytes(seal(Party.of(folders["aurora"]), "result", "borealis", opened.session, before, {"ids": ids}))
    if ids == {}:  # control: nothing in common is a result
        assert take(folders, "borealis", file, tmp_path)["common"] == "fewer than 5"
    else:
        assert code(take, folders, "borealis", file, tmp_path) == "align.form"
    assert not (folders["borealis"] / shared_items.NAME).exists()


@pytest.mark.parametrize("defence", [True, False])
def test_who_carries_the_files_cannot_ask_in_the_first_members_name(folders, tmp_path, defence):
    """He wants to know which of his guesses borealis has. Control: borealis pins his key, and answers him."""
    his = SigningKey.generate()
    there = Party.of(folders["borealis"])
    guesses = [psi.clean_key(title(a)) for a in range(20, 24)] + ["not there"]
    secret, request = psi.ask(guesses)
    file = tmp_path / "forged.json"
    if not defence:
        text = (tmp_path / "consortium.toml").read_text()
        (tmp_path / "consortium.toml").write_text(text.replace(there.members["aurora"], his.verify_key.encode().hex()))
    members = Party.of(folders["borealis"]).members
    carrier = Party("aurora", members, Keys(his, his, ""))
    body = {"request": base64.b64encode(request).decode()}
    file.write_bytes(seal(carrier, "request", "borealis", "ab" * 16, "", body))
    if defence:
        assert code(take, folders, "borealis", file, tmp_path) == "align.maker"
        return
    take(folders, "borealis", file, tmp_path)
    opened = unseal(carrier, (tmp_path / "aurora.response.json").read_bytes()).body
    setup, response = (base64.b64decode(opened[part]) for part in ("setup", "response"))
    assert psi.common(secret, guesses, setup, response) == (guesses[:4], 20)


def test_another_member_than_the_first_does_not_ask(folders, tmp_path):
    with pytest.raises(WrongInput, match="aurora asks"):
        align.begin(folders["delphi"], "borealis", folders["delphi"] / "items.csv", "title", tmp_path)
    file = tmp_path / "own.json"
    file.write_bytes(seal(Party.of(folders["delphi"]), "request", "borealis", "ab" * 16, "", {}))
    assert code(take, folders, "borealis", file, tmp_path) == "align.maker"


def test_a_list_of_more_keys_than_the_owner_allows_is_not_answered(folders, tmp_path):
    ask(folders, "borealis", tmp_path)
    file = tmp_path / "borealis.request.json"
    assert code(take, folders, "borealis", file, tmp_path, 19) == "align.size"
    assert not (tmp_path / "aurora.response.json").exists()
    assert take(folders, "borealis", file, tmp_path, 20)["asked"] == 20  # control: the same list within the limit


@pytest.mark.parametrize("field", ["step", "to", "session", "before", "sealed", "maker", "consortium"])
def test_a_file_with_anything_changed_is_refused(folders, tmp_path, field):
    ask(folders, "borealis", tmp_path)
    file = tmp_path / "borealis.request.json"
    said = json.loads(file.read_bytes())
    changed = {"step": "result", "maker": "delphi"}.get(field, "00" * 16)
    file.write_text(json.dumps({**said, field: changed}))
    assert code(take, folders, "borealis", file, tmp_path) == "align.maker"


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_none_is_refused(folders, tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    assert code(take, folders, "borealis", tmp_path / "x", tmp_path) == "align.form"


@pytest.mark.parametrize("request_", ["", "AAAA", "CAESAQE=", "EgEB", 7])
def test_a_request_of_no_points_is_refused(folders, tmp_path, request_):
    file = tmp_path / "x.json"
    file.write_bytes(seal(Party.of(folders["aurora"]), "request", "borealis", "ab" * 16, "", {"request": request_}))
    assert code(take, folders, "borealis", file, tmp_path) == "align.form"


def test_each_step_is_an_act_of_two_events_and_a_refusal_stands_in_the_log(folders, tmp_path):
    whole(folders, "borealis", tmp_path)
    assert code(take, folders, "borealis", tmp_path / "borealis.result.json", tmp_path) == "align.replay"
    ends = {name: [(e["object"], e["outcome"]) for e in audit.read(folders[name], "catalogue")] for name in NAMES[:2]}
    taken = [("take", "intent"), ("take", "done")]
    assert ends["aurora"] == [("request", "intent"), ("request", "done"), *taken]
    assert ends["borealis"] == [*taken, *taken, ("take", "intent"), ("take", "align.replay")]


def test_the_data_taken_in_by_the_mapping_trains_the_model_of_the_true_ids(folders, tmp_path):
    whole(folders, "borealis", tmp_path / "out")
    (tmp_path / "items.csv").write_bytes((tmp_path / "out" / "catalogue.csv").read_bytes())
    called, frames, true = names_of(folders, "aurora"), {}, {}
    order = sorted(called, key=called.__getitem__)  # articles in the catalogue's order
    for name in NAMES[:2]:
        folder = folders[name]
        with (folder / "site.toml").open("a") as file:
            file.write('item_ids = "shared_items.csv"\n')
        report, frame = take_in_folder(folder), rows(name)
        common = frame[frame["article"].isin(called)]
        assert report.filtered == {"not_shared": len(frame) - len(common)}
        assert (report.rows_kept, sum(report.rejected.values())) == (len(common), 0)
        store = Store.open(folder / "state")
        kept = store.rows()
        frames[name] = pd.DataFrame(
            {"user": kept.user, "item": [str(i) for i in kept.item], "rating": kept.rating, "timestamp": kept.time}
        )
        true[name] = common.assign(item=common["article"].astype(str))
    ours = simulate(frames, catalogue=[str(i) for i in range(12)]).train(Plan(Ease(l2=20.0)))
    theirs = simulate(true, catalogue=[str(a) for a in order]).train(Plan(Ease(l2=20.0)))
    np.testing.assert_array_equal(ours.shared["weights"], theirs.shared["weights"])
    assert ours.shared["weights"].any()


def test_the_command_does_all_steps(folders, tmp_path):
    def run(name, *words):
        done = CliRunner().invoke(
            cli, ["catalogue", "align", str(folders[name]), "--out", str(tmp_path), *map(str, words)]
        )
        assert done.exit_code == 0, done.exception
        return done.output

    own = {name: ["--items", folders[name] / "items.csv", "--key", "title"] for name in NAMES}
    run("aurora", "--with", "borealis", *own["aurora"])
    assert "asked for 20 keys" in run("borealis", "--take", tmp_path / "borealis.request.json", *own["borealis"])
    assert "in common: 12" in run("aurora", "--take", tmp_path / "aurora.response.json")
    said = json.loads(run("borealis", "--take", tmp_path / "borealis.result.json", "--json", "-"))
    assert (said["step"], said["common"]) == ("done", 12)


@pytest.mark.parametrize(
    "text", ["", "own,item\n", "item,own\na,b\n", "own,item\na,b\na,c\n", "own,item\na\n", "own,item\n,b\n"]
)
def test_a_mapping_that_is_broken_is_wrong_input(tmp_path, text):
    path = tmp_path / "shared_items.csv"
    path.write_text(text)
    with pytest.raises(WrongInput, match=r"shared_items\.csv"):
        shared_items.read(path)
    path.write_text("own,item\n a ,x\nb,x\n")  # control; two own ids may be one shared
    assert shared_items.read(path) == {"a": "x", "b": "x"}


def test_an_own_table_of_items_is_renamed_and_an_item_that_is_not_shared_has_no_id():
    table = pa.table({"item": ["a ", "b", None], "genre": ["x", "y", "z"]})
    assert shared_items.renamed(table, "item", {"a": "s1"}).to_pydict() == {
        "item": ["s1", None, None],
        "genre": ["x", "y", "z"],
    }


def test_an_own_id_that_looks_like_a_shared_one_of_another_item_is_not_taken_for_it():
    frame = pd.DataFrame({"user": ["u", "u"], "item": ["s1", "a"], "rating": [1, 2], "timestamp": [1, 2]})
    for shared, kept in [({"a": "s1"}, [2]), (None, [1])]:  # control: without a mapping it is the catalogue's
        assert index_frame(frame, ["s1"], shared=shared).rows.rating.tolist() == kept
