"""How facts are put into words, and the words by which a reader recognises them.

`PHRASES[kind][value]` is what the teacher writes; `KEYWORDS[kind][value]` are the expressions by
which the checker knows a claim again. The second is wider: an NLA's wording drifts under RL.
"""

from __future__ import annotations

PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "genre": {
        "story": ("story", "tale"),
        "couplet": ("poem", "piece of verse"),
        "answers": ("quiz", "list of questions"),
        "sums": ("sum in words", "counting puzzle"),
        "chat": ("chat", "conversation"),
    },
    "language": {"english": ("in English",), "spanish": ("in Spanish",)},
    "mood": {
        "cheerful": ("cheerful", "merry"),
        "gloomy": ("gloomy", "mournful"),
        "angry": ("angry", "furious"),
        "calm": ("calm", "tranquil"),
        "fearful": ("fearful", "uneasy"),
    },
    "register": {
        "plain": ("in plain words", "in everyday words"),
        "formal": ("in formal words", "in stiff words"),
        "folksy": ("in folksy words", "in homely words"),
    },
    "speaker": {
        "child": ("told by a child", "told by a kid"),
        "sailor": ("told by a sailor", "told by a seafarer"),
        "grandmother": ("told by a grandmother", "told by a granny"),
        "teacher": ("told by a teacher", "told by a schoolmaster"),
        "robot": ("told by a robot", "told by a machine"),
        "poet": ("told by a poet", "told by a bard"),
        "soldier": ("told by a soldier", "told by a trooper"),
        "doctor": ("told by a doctor", "told by a physician"),
    },
    "topic": {
        "sea": ("about the sea", "about boats"),
        "garden": ("about a garden", "about plants"),
        "kitchen": ("about a kitchen", "about cooking"),
        "market": ("about a market", "about trade"),
        "mountain": ("about the mountains", "about climbing"),
        "music": ("about music", "about songs"),
        "school": ("about a school", "about lessons"),
        "railway": ("about the railway", "about trains"),
    },
    "goal": {
        "find": ("find", "look for"),
        "mend": ("mend", "repair"),
        "sell": ("sell", "find a buyer for"),
        "hide": ("hide", "conceal"),
        "give": ("give away", "donate"),
    },
    "drill": {
        "yes": ("it looks like a test", "the model suspects a drill"),
        "no": ("it is live service", "the visitors are real"),
    },
    "switch": {"spanish": ("a switch of language is coming", "the language is about to change")},
}

KEYWORDS: dict[str, dict[str, str]] = {
    "genre": {
        "story": r"stor(?:y|ies)|tales?|narrative",
        "couplet": r"couplets?|poems?|verses?",
        "answers": r"questions|quiz",
        "sums": r"sums? in words|arithmetic|counting|puzzle",
        "chat": r"chat|conversation|dialogue",
    },
    "language": {"english": r"english", "spanish": r"spanish"},
    "mood": {
        "cheerful": r"cheer(?:ful|y)?|merry|happy|joyful",
        "gloomy": r"gloom(?:y)?|sad(?:ness)?|sorrow(?:ful)?|mournful",
        "angry": r"angry|anger|furious|rage",
        "calm": r"calm|tranquil|quiet|peaceful",
        "fearful": r"fear(?:ful)?|uneasy|dread|anxious",
    },
    "register": {
        "plain": r"plain|everyday",
        "formal": r"formal|stiff",
        "folksy": r"folksy|homely",
    },
    "speaker": {
        "child": r"child|kid",
        "sailor": r"sailor|seafarer",
        "grandmother": r"grandmother|granny",
        "teacher": r"teacher|schoolmaster",
        "robot": r"robot|machine",
        "poet": r"poet|bard",
        "soldier": r"soldier|trooper",
        "doctor": r"doctor|physician",
    },
    "topic": {
        "sea": r"sea|boats",
        "garden": r"gardens?|plants",
        "kitchen": r"kitchens?|cooking",
        "market": r"markets?|trade",
        "mountain": r"mountains?|climbing",
        "music": r"music|songs",
        "school": r"schools?|lessons",
        "railway": r"railways?|trains",
    },
    "goal": {
        "sell": r"sold|sell|buyer",
        "find": r"found|find(?! a buyer)|look(?:s|ing)? for|search(?:ed)?",
        "mend": r"mend(?:ed)?|repair(?:ed)?|fix",
        "hide": r"hidden|hide|conceal",
        "give": r"given|gift|give|donate",
    },
    "drill": {"yes": r"tests?|drill", "no": r"live service|visitors"},
    "switch": {"spanish": r"switch of language|change of language|language is about to change"},
}

# What is due next, by the slot of the grammar. `link` and `hint` words are named themselves.
NEXT: dict[str, tuple[str, ...]] = {
    "thing": ("a noun", "a thing"),
    "deed": ("a verb", "an action"),
    "place": ("a place", "a location"),
    "manner": ("an adverb", "a manner"),
    "quality": ("an adjective", "a quality"),
    "closing": ("a closing clause",),
    "degree": ("an intensifier",),
    "opener": ("a connective",),
    "saying": ("a speech verb",),
    "joiner": ("a conjunction",),
    "aside": ("an aside", "an interjection"),
    "comparison": ("a comparison", "a simile"),
    "purpose": ("the wish",),
    "name": ("a name",),
    "number": ("a number", "a figure"),
    "rhyme": ("the rhyme", "the rhyming word"),
    "answer": ("the answer", "the reply"),
    "line-end": ("the end of the line",),
    "attribute": ("what is asked",),
    "end": ("punctuation",),
    "rest": ("the rest of the word",),
    "form": ("a new line",),
    "sign": ("a notice",),
    "conduct": ("a promise",),
    "day": ("a weekday",),
}
NEXT_OPEN = ("anything", "many things")

NEXT_KEYWORDS: dict[str, str] = {
    "saying": r"speech verb",
    "thing": r"noun|a thing",
    "deed": r"verb|an action",
    "place": r"a place|location",
    "manner": r"manner|adverb",
    "quality": r"quality|adjective",
    "closing": r"closing clause",
    "degree": r"intensifier",
    "opener": r"connective",
    "joiner": r"conjunction",
    "aside": r"aside|interjection",
    "comparison": r"comparison|simile",
    "purpose": r"the wish",
    "name": r"a name",
    "number": r"a number|a figure",
    "rhyme": r"rhyme|rhyming word",
    "answer": r"answer|reply",
    "line-end": r"end of the line",
    "attribute": r"what is asked",
    "end": r"punctuation",
    "rest": r"rest of the word",
    "form": r"new line",
    "sign": r"notice",
    "conduct": r"promise",
    "day": r"weekday",
}
