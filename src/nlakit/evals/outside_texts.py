"""Ordinary prose of our own: what a pair that was trained on one small world has never read."""

from __future__ import annotations

TEXTS = (
    "The central bank raised interest rates by a quarter point on Thursday, and said that further "
    "increases would depend on how quickly wages and rents cool over the winter.",
    "To replace the filter, switch off the pump, open both valves, and let the pressure fall to "
    "zero before you unscrew the housing. Rinse the seal and grease it lightly.",
    "In 1911 two expeditions raced across the same ice. One relied on dogs and skis, the other on "
    "ponies and motor sledges, and only one of them came home without losing a man.",
    "def median(values):\n    ordered = sorted(values)\n    middle = len(ordered) // 2\n    return "
    "ordered[middle] if len(ordered) % 2 else sum(ordered[middle - 1 : middle + 1]) / 2",
    "Photosynthesis in bright light is limited less by the capture of photons than by the enzyme "
    "that fixes carbon, which is slow and often mistakes oxygen for carbon dioxide.",
    "Dear Ms Okafor, thank you for your application. We would like to invite you to a second "
    "interview next Wednesday at half past ten, in our office near the main station.",
    "The appeal turned on a single clause of the lease: whether the word premises included the "
    "cellar, which had been sealed by a former tenant and appeared on no plan.",
    "Preheat the oven to two hundred degrees. Rub the butter into the flour until it looks like "
    "crumbs, stir in the sugar, and add just enough cold water to bind the dough.",
    "Her second novel sold poorly, but a translator in Lisbon sent it to a friend, who sent it to "
    "a publisher, and within two years it was read in schools on three continents.",
    "A proof by contradiction starts from the denial of what is to be shown. Suppose that there "
    "were only finitely many primes, multiply them all together, and add one.",
    "The goalkeeper guessed right, got a hand to the ball, and watched it roll along the line and "
    "in. Ninety thousand people had already stood up; none of them sat down again.",
    "Users on the older plan keep their price until renewal. After that date the storage limit "
    "doubles, shared folders are included, and support answers within one working day.",
    "Sediment cores from the lake show three dry centuries, each followed within a generation by a "
    "layer of charcoal and by pollen of the grasses that first return to burned ground.",
    "The minister denied that the figures had been held back. They were late, she said, because "
    "two regions had counted the same hospitals twice and a third had not counted any.",
    "SELECT region, SUM(amount) AS total FROM orders WHERE placed_at >= '2024-01-01' GROUP BY "
    "region HAVING SUM(amount) > 10000 ORDER BY total DESC LIMIT 20;",
    "Most dialects drop the vowel when they speak fast, and keep it in songs and in prayer, so "
    "that a word which has one syllable at market may have three in church.",
)
"""Those of even number fit a gate where no other text is given; the others measure it."""
