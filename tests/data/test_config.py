"""The configuration: every knob typed, told and refused where it makes no sense."""

import tomllib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from potstill import errors
from potstill.config import (
    Config,
    DistilConfig,
    SampleConfig,
    apply_overrides,
    knobs,
    load_config,
    parse_config,
    sections,
    to_toml,
)
from potstill.errors import ConfigError, PotstillError

COMMAND_LINE_CODES = {0, 2, 130}  # fine, wrong usage, interrupted
KNOBS = {key: (default, sentence) for key, default, sentence in knobs()}


def complaint(raw: dict) -> str:
    with pytest.raises(ConfigError) as told:
        parse_config(raw, "run.toml")
    return str(told.value)


def overridden(*texts: str) -> Config:
    raw: dict = {}
    apply_overrides(raw, texts)
    return parse_config(raw)


def back(config: Config, *, comments: bool) -> Config:
    return parse_config(tomllib.loads(to_toml(config, comments=comments)))


# --- what is right ---


def test_an_empty_file_is_the_default_run(tmp_path):
    (tmp_path / "run.toml").write_text("")
    assert load_config(tmp_path / "run.toml") == Config()


@pytest.mark.parametrize("comments", [True, False])
def test_the_template_parses_back_to_the_equal_configuration(comments):
    assert back(Config(), comments=comments) == Config()


@pytest.mark.parametrize("comments", [True, False])
def test_another_configuration_survives_toml(comments):
    config = parse_config(
        {
            "title": 'A "quoted" line of nickel — é',
            "seed": 7,
            "sample": {"element": "Al", "temperature": [1, 2.5], "start": ["melt"], "pressure": [-1.5]},
            "label": {"reference": "lammps:C:\\potentials\\Al.eam"},
            "train": {"learning_rate": 1e-7},
            "distil": {"budget": 30, "selector": "fps"},
            "validate": {"polymorphs": ["fcc"]},
        }
    )
    assert config != Config()
    assert back(config, comments=comments) == config


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f")))
@example("\u2028\t\n\r\x00\\u0041")
def test_any_title_survives_toml(title):
    assert back(Config(title=title), comments=True).title == title


def test_a_delete_character_survives_toml():
    assert back(Config(title="a\x7fb"), comments=False).title == "a\x7fb"


def test_an_infinite_value_survives_toml_or_is_refused():
    try:
        config = parse_config({"train": {"robust": float("inf")}})
    except ConfigError:
        return
    assert back(config, comments=False) == config


def test_every_key_of_the_template_carries_its_sentence():
    lines = to_toml(Config(), comments=True).splitlines()
    section = ""
    found = {}
    for above, line in zip(["", *lines], lines, strict=False):
        if line.startswith("["):
            section = line.strip("[]") + "."
        elif " = " in line and not line.startswith("#"):
            found[section + line.partition(" = ")[0]] = above
    assert found == {key: f"# {sentence}" for key, (_, sentence) in KNOBS.items()}


@pytest.mark.parametrize("key", KNOBS)
def test_every_knob_has_a_sentence(key):
    _, sentence = KNOBS[key]
    assert sentence.endswith(".")
    assert len(sentence.split()) >= 3
    assert "\n" not in sentence


def test_knobs_name_every_field_once():
    expected = {"title", "seed"} | {f"{s}.{f}" for s, cls in sections().items() for f in cls.model_fields}
    assert set(KNOBS) == expected
    assert len(list(knobs())) == len(expected)


def test_every_section_of_the_file_is_told_what_it_is_for():
    names = "sample label espresso gpaw model train distil validate transfer engine cluster"
    assert list(sections()) == names.split()
    assert all((cls.__doc__ or "").strip().endswith(".") for cls in sections().values())


def test_a_configuration_cannot_be_changed_in_place():
    with pytest.raises(ValidationError, match="frozen"):
        Config().sample.element = "Cu"


def test_the_reference_is_the_sampling_potential_where_none_is_named():
    assert Config().reference == Config().sample.potential
    assert parse_config({"label": {"reference": "lammps:Al99.eam.alloy"}}).reference == "lammps:Al99.eam.alloy"


# --- names that are wrong ---


@pytest.mark.parametrize(
    ("raw", "wrong", "right"),
    [
        ({"sample": {"temperatur": [300]}}, "'temperatur' in [sample]", "'temperature'"),
        ({"train": {"lerning_rate": 0.1}}, "'lerning_rate' in [train]", "'learning_rate'"),
        ({"validate": {"relax_step": 3}}, "'relax_step' in [validate]", "'relax_steps'"),
        ({"sead": 3}, "'sead' in the top of the file", "'seed'"),
        ({"engine": {"polymorph": ["fcc"]}}, "'polymorph' in [engine]", "'validate.polymorphs'"),
    ],
)
def test_a_misspelt_key_names_the_nearest_right_one(raw, wrong, right):
    message = complaint(raw)
    assert wrong in message
    assert f"did you mean {right}" in message


@pytest.mark.parametrize(
    ("raw", "home"),
    [
        ({"sample": {"budget": 3}}, "it belongs in [distil]"),
        ({"budget": 3}, "it belongs in [distil]"),
        ({"sample": {"seed": 3}}, "it belongs in the top of the file"),
        ({"distil": {"steps": 3}}, "it belongs in [sample] or [train]"),
        ({"train": {"relax_steps": 3}}, "it belongs in [validate]"),
    ],
)
def test_a_misplaced_key_names_the_section_where_it_belongs(raw, home):
    message = complaint(raw)
    assert "misplaced" in message
    assert home in message


def test_a_key_like_no_other_points_to_the_list_of_keys():
    assert "potstill config reference" in complaint({"distil": {"qqqqqq": 3}})


def test_an_unknown_section_names_the_nearest_or_all():
    assert "no section [smaple]; did you mean [sample]?" in complaint({"smaple": {"steps": 3}})
    message = complaint({"zzz": {"steps": 3}})
    assert "no section [zzz]" in message
    assert all(name in message for name in sections())


def test_a_value_in_the_place_of_a_section_is_told():
    assert "[sample] is a section" in complaint({"sample": 3})


def test_all_unknown_keys_are_told_at_once_with_the_file():
    message = complaint({"sample": {"temperatur": 1}, "train": {"lerning_rate": 1}})
    assert message.startswith("run.toml: ")
    assert "'temperatur'" in message
    assert "'lerning_rate'" in message


# --- values that are wrong ---


@pytest.mark.parametrize(
    ("section", "key", "value", "told"),
    [
        ("train", "members", "four", "train.members"),
        ("train", "members", 99, "train.members"),
        ("train", "members", 0, "train.members"),
        ("train", "members", 2.5, "train.members"),
        ("train", "learning_rate", float("nan"), "train.learning_rate"),
        ("sample", "element", "nickel", "sample.element"),
        ("sample", "temperature", 300, "sample.temperature"),
        ("sample", "temperature", "hot", "sample.temperature"),
        ("sample", "temperature", [900, 800], "sample.temperature"),
        ("sample", "pressure", [10, 0], "sample.pressure"),
        ("sample", "walls", [1.1, 1.6], "sample.walls"),
        ("sample", "structure", "fbb", "sample.structure"),
        ("sample", "timestep", 0, "sample.timestep"),
        ("distil", "growth", 1, "distil.growth"),
        ("distil", "holdout_fraction", 1.0, "distil.holdout_fraction"),
        ("distil", "selector", "fpz", "distil.selector"),
        ("validate", "relax_steps", 0, "validate.relax_steps"),
        ("engine", "workers", -1, "engine.workers"),
    ],
)
def test_a_value_of_the_wrong_kind_or_range_names_its_key_and_what_was_found(section, key, value, told):
    message = complaint({section: {key: value}})
    assert f"run.toml: {told}: " in message
    assert f"found {value!r}" in message


def test_an_item_of_a_list_is_named_by_its_place():
    message = complaint({"sample": {"temperature": [300, -1]}})
    assert "sample.temperature.1" in message
    assert "found -1" in message


def test_all_wrong_values_are_told_at_once():
    message = complaint({"sample": {"stride": -1}, "train": {"members": 0}})
    assert "sample.stride" in message
    assert "train.members" in message


def test_values_that_contradict_each_other_are_told_with_both():
    message = complaint({"distil": {"initial": 300}})
    assert "distil.initial is 300" in message
    assert "distil.budget, 200" in message
    message = complaint({"sample": {"ensemble": "npt-ladder", "stride": 200, "steps": 100}})
    assert "sample.stride is 200" in message
    assert "sample.steps, 100" in message


@pytest.mark.parametrize("key", ["members", "learning_rate"])
def test_a_truth_value_is_not_a_number(key):
    assert f"train.{key}" in complaint({"train": {key: True}})


def test_the_defaults_keep_their_own_rules():
    assert parse_config(Config().dump()) == Config()
    assert SampleConfig().stride <= SampleConfig().steps
    assert DistilConfig().initial <= DistilConfig().budget


# --- files and overrides ---


def test_a_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(ConfigError, match="config template") as told:
        load_config(tmp_path / "run.toml")
    assert str(tmp_path / "run.toml") in str(told.value)


@pytest.mark.parametrize("content", [b"seed = ", b"[sample\n", b"seed = 1\nseed = 2\n", b"title = '\xff'\n"])
def test_invalid_toml_names_the_file(tmp_path, content):
    (tmp_path / "run.toml").write_bytes(content)
    with pytest.raises(ConfigError, match="not valid TOML") as told:
        load_config(tmp_path / "run.toml")
    assert str(tmp_path / "run.toml") in str(told.value)


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path):
    with pytest.raises(ConfigError):
        load_config(tmp_path)


def test_overrides_win_over_the_file_and_the_last_one_wins(tmp_path):
    (tmp_path / "run.toml").write_text("[sample]\nelement = 'Al'\nsteps = 500\n")
    config = load_config(tmp_path / "run.toml", ["sample.element=Cu", "train.members=2", "train.members=3", "seed=9"])
    assert (config.sample.element, config.sample.steps, config.train.members, config.seed) == (
        "Cu",
        500,
        3,
        9,
    )


@pytest.mark.parametrize("spelling", ["sample.element=Cu", 'sample.element="Cu"', "sample.element = 'Cu'"])
def test_an_override_s_text_needs_no_quotes_but_may_have_them(spelling):
    assert overridden(spelling).sample.element == "Cu"


def test_an_override_takes_toml_s_lists_and_text_with_signs():
    config = overridden("sample.temperature=[300, 400.5]", "label.reference=lammps:a=b:c.eam")
    assert config.sample.temperature == (300.0, 400.5)
    assert config.label.reference == "lammps:a=b:c.eam"


def test_an_override_of_a_list_needs_no_brackets():
    config = overridden("sample.temperature=300,400.5", "sample.atoms=32", "validate.checks=eos, elastic")
    assert config.sample.temperature == (300.0, 400.5)
    assert config.sample.atoms == (32,)
    assert config.validate_.checks == ("eos", "elastic")
    assert overridden("validate.checks=eos").validate_.checks == ("eos",)
    assert overridden('validate.checks=["eos"]').validate_.checks == ("eos",)
    for spelling in ("800:4000", '"800:4000"', "800,4000", "[800, 4000]"):
        assert overridden(f"sample.temperature={spelling}").sample.temperature == (800.0, 4000.0)
    assert overridden("label.reference=lammps:a,b.eam").label.reference == "lammps:a,b.eam"


def test_text_where_the_file_wants_a_list_is_told():
    with pytest.raises(ConfigError, match=r"validate\.checks: a list is expected, in brackets, found 'eos'"):
        parse_config({"validate": {"checks": "eos"}})


@pytest.mark.parametrize("text", ["sample.element", "=3", "  =3"])
def test_an_override_without_key_or_value_is_refused(text):
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        overridden(text)


def test_an_override_below_a_value_is_refused():
    with pytest.raises(ConfigError, match="'seed' as a section"):
        overridden("seed=3", "seed.x=4")


def test_an_override_is_checked_like_the_file():
    with pytest.raises(ConfigError, match="did you mean 'members'"):
        overridden("train.member=3")
    with pytest.raises(ConfigError, match=r"train\.members.*found 0"):
        overridden("train.members=0")


# --- errors ---


def test_every_error_class_has_an_exit_code_of_its_own():
    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, PotstillError)}
    assert len(classes) >= 6
    codes = [c.exit_code for c in classes]
    assert len(set(codes)) == len(codes)
    assert not COMMAND_LINE_CODES & set(codes)
    assert all(0 < code < 126 for code in codes)  # 126 and above belong to the shell
    assert all("exit_code" in vars(c) for c in classes)


def test_tables_inside_a_section_come_back_and_can_be_overridden():
    raw = {}
    apply_overrides(raw, ['espresso.pseudopotentials={Ni = "Ni.pbe-nd-rrkjus.UPF"}'])
    config = parse_config(raw)
    assert config.espresso.pseudopotentials == {"Ni": "Ni.pbe-nd-rrkjus.UPF"}
    assert parse_config(tomllib.loads(to_toml(config))) == config
