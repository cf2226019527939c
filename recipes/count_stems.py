"""Counts the documents of a corpus in which each stem stands.

`python recipes/count_stems.py CORPUS` writes `stems.txt` of `nlakit.claims.text`: a line for each
count, rounded to two digits.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from nlakit.claims.text.words import WORD, stem
from nlakit.data.corpora import Corpus, CorpusDocument

LEAST = 12
"""Stems of fewer documents count as never seen."""


def count(documents: Iterable[CorpusDocument]) -> tuple[int, Counter[str]]:
    """The number of documents, and in how many each stem stands."""
    found: Counter[str] = Counter()
    num = 0
    for document in documents:
        num += 1
        said = document.text or "\n".join(each.text for each in document.messages)
        found.update({stem(word) for word in WORD.findall(said)})
    return num, found


def lines(num: int, counts: Counter[str]) -> Iterator[str]:
    """The file, the commonest first."""
    by_count: dict[int, list[str]] = defaultdict(list)
    for name, documents in counts.items():
        if documents >= LEAST and name.isascii():
            by_count[int(float(f"{documents:.2g}"))].append(name)
    yield f"# stems by the documents, of {num}, in which they stand"
    for documents in sorted(by_count, reverse=True):
        yield f"{documents} {' '.join(sorted(by_count[documents]))}"


if __name__ == "__main__":
    print(*lines(*count(Corpus(sys.argv[1]))), sep="\n")
