"""The reporting checklists: all items are there, what nobody answered is not done, mistakes are named."""

import re

import pytest

from CNNSurvivalLib.errors import UsageError
from training_cli.models.checklists import (
    NOT_DONE,
    checklist_markdown,
    checklist_rows,
    checklists_markdown,
    read_checklists,
)


def test_all_items_are_there_under_their_numbers():
    lists = read_checklists()
    assert list(lists["claim"].items) == [str(number) for number in range(1, 45)]
    tripod = list(lists["tripod_ai"].items)
    assert len(tripod) == 52 and len(set(re.sub(r"\D", "", number) for number in tripod)) == 27
    for number, letters in (("3", "abc"), ("12", "abcdefg"), ("18", "abcdef"), ("27", "abc")):
        numbers = [number + letter for letter in letters]
        place = tripod.index(numbers[0])
        assert tripod[place : place + len(numbers)] == numbers
    for one in lists.values():
        assert all(0 < len(name) < 70 for name in one.items.values())
        assert len(set(one.items.values())) == len(one.items)


def test_what_nobody_answered_is_not_done():
    claim = read_checklists()["claim"]
    rows = checklist_rows(claim, {"22": "What goes in", "44": "  "})
    where = {number: answer for number, _, answer in rows}
    assert where["22"] == "What goes in" and where["44"] == where["1"] == NOT_DONE
    text = checklist_markdown(claim, {"22": "a | b\n<c>"})
    assert "| 22 | Description of the model | a \\| b \\<c\\> |" in text
    assert "1 of 44 items are answered." in text and text.count("| not done |") == 43
    assert all(line.count("|") - line.count("\\|") == 4 for line in text.splitlines() if line.startswith("|"))


def test_a_card_without_answers_still_shows_both_tables():
    text = checklists_markdown({})
    assert "### CLAIM 2024" in text and "### TRIPOD+AI" in text and text.count(f"| {NOT_DONE} |") == 96
    text = checklists_markdown({"checklists": {"tripod_ai": {"12e": "How good it is"}}})
    assert "| 12e | Measures and plots of performance | How good it is |" in text


@pytest.mark.parametrize(
    "answers, words",
    [
        ({"claims": {}}, "There is no checklist 'claims'; there are: claim, tripod_ai."),
        ({"claim": {"45": "x"}}, "CLAIM 2024 has no item '45'"),
        ({"tripod_ai": {"3a": 1}}, "The answer to item 3a of TRIPOD[+]AI must be a text in quotes."),
    ],
)
def test_mistakes_are_named(answers, words):
    with pytest.raises(UsageError, match=words):
        checklists_markdown({"checklists": answers})
