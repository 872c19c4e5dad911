"""What `benchmarks.scale` compares: two programs for the real CLI, by its previews."""

from pathlib import Path

from benchmarks.scale.preview import BY_HAND, COMPONENT, Previews


def test_the_component_and_the_program_by_hand_declare_the_same_objects(tmp_path: Path) -> None:
    previews = Previews.prepared(tmp_path, 2)
    ours, theirs = ({_key(one): one for one in previews.declared(way, 2)} for way in (COMPONENT, BY_HAND))
    assert len(ours) > 2 * 20
    assert ours == theirs


def test_a_preview_is_timed_with_everything_that_it_started(tmp_path: Path) -> None:
    found = Previews.prepared(tmp_path, 1).measure(BY_HAND, 1)
    assert found.took_s > 0
    assert found.cpu_s > 0
    assert found.resources > 20


def _key(inputs: dict[str, dict[str, str]]) -> tuple[str, str]:
    return str(inputs["kind"]), inputs["metadata"]["name"]
