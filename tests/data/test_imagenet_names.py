from importlib.resources import files

import pytest
from tests.conftest import RealData

from rlkd.data.imagenet_names import WNIDS, readable


def timm_file(name: str) -> list[str]:
    pytest.importorskip("timm")
    return (files("timm.data") / "_info" / name).read_text(encoding="utf-8").splitlines()


def test_the_ids_are_those_of_timm_in_its_order() -> None:
    assert list(WNIDS) == timm_file("imagenet_synsets.txt")
    assert list(WNIDS) == sorted(set(WNIDS))


def test_each_id_is_called_by_a_name_that_wordnet_has_for_it() -> None:
    lemmas = dict(line.split("\t", 1) for line in timm_file("imagenet_synset_to_lemma.txt"))
    names = readable(WNIDS)
    assert len(set(names)) == 1000
    plain = [name.partition(" (n")[0] for name in names]
    strangers = {
        wnid: (name, lemmas[wnid])
        for wnid, name in zip(WNIDS, plain, strict=True)
        if name not in [lemma.strip() for lemma in lemmas[wnid].split(",")]
    }
    # WordNet calls two of them alike, which torchvision tells apart.
    assert {name for name, _ in strangers.values()} == {"crane bird", "maillot tank suit"}


def test_other_names_stay_as_they_are() -> None:
    assert readable(("cat", "dog")) == ("cat", "dog")
    assert readable(("cat", "n01440764")) == ("cat", "tench")


def test_the_folders_of_imagenet_are_the_ids(real_data: RealData) -> None:
    root = real_data("imagenet_sample") / "val"
    assert tuple(sorted(each.name for each in root.iterdir())) == WNIDS
