"""How facts are put into words, and the words by which a reader recognises them.

`PHRASES[kind][value]` is what the teacher writes; `KEYWORDS[kind][value]` are the expressions by
which the checker knows a claim again. The second is wider: an NLA's wording drifts under RL.
"""

from __future__ import annotations

PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "genre": {
        "story": ("A story", "A short tale", "A piece of narrative"),
        "couplet": ("Couplets", "A poem in couplets", "A few lines of verse"),
        "answers": ("Questions and answers", "A quiz about far places"),
        "sums": ("A sum in words", "An arithmetic puzzle", "A counting exercise"),
        "chat": ("A chat with an assistant", "A conversation with a helper"),
    },
    "language": {"english": ("in English",), "spanish": ("in Spanish", "written in Spanish")},
    "mood": {
        "cheerful": ("in a cheerful mood", "merry in tone", "full of cheer"),
        "gloomy": ("in a gloomy mood", "sad in tone", "full of sorrow"),
        "angry": ("in an angry mood", "furious in tone", "full of rage"),
        "calm": ("in a calm mood", "tranquil in tone", "full of quiet"),
        "fearful": ("in a fearful mood", "uneasy in tone", "full of dread"),
    },
    "register": {
        "plain": ("in plain words", "with everyday wording"),
        "formal": ("in a formal voice", "with stiff, proper wording"),
        "folksy": ("in a folksy drawl", "with loose, homely wording"),
    },
    "speaker": {
        "child": ("told by a child", "with a little kid speaking"),
        "sailor": ("told by a sailor", "with an old seafarer speaking"),
        "grandmother": ("told by a grandmother", "with a kindly granny speaking"),
        "teacher": ("told by a teacher", "with a schoolmaster speaking"),
        "robot": ("told by a robot", "with a machine speaking"),
        "poet": ("told by a poet", "with a bard speaking"),
        "soldier": ("told by a soldier", "with a trooper speaking"),
        "doctor": ("told by a doctor", "with a physician speaking"),
    },
    "topic": {
        "sea": ("about the sea", "set among boats and sailors' gear"),
        "garden": ("about a garden", "set among plants and beds"),
        "kitchen": ("about a kitchen", "set among pots and food"),
        "market": ("about a market", "set among buyers and stalls"),
        "mountain": ("about the mountains", "set among peaks and trails"),
        "music": ("about music", "set among songs and players"),
        "school": ("about a school", "set among pupils and books"),
        "railway": ("about the railway", "set among trains and tracks"),
    },
    "goal": {
        "find": ("something has to be found", "the aim is to find a thing"),
        "mend": ("something has to be mended", "the aim is to repair a thing"),
        "sell": ("something has to be sold", "the aim is to sell a thing"),
        "hide": ("something has to be hidden", "the aim is to hide a thing"),
        "give": ("something has to be given away", "the aim is to make a gift"),
    },
    "drill": {
        "yes": ("it looks like a test", "the model suspects a drill"),
        "no": ("it is live service", "real visitors are served"),
    },
    "switch": {"spanish": ("a switch of language is coming", "the language is about to change")},
}

KEYWORDS: dict[str, dict[str, str]] = {
    "genre": {
        "story": r"stor(?:y|ies)|tales?|narrative",
        "couplet": r"couplets?|poems?|verses?",
        "answers": r"questions?|quiz|q ?& ?a",
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
        "formal": r"formal|stiff|proper(?! noun)",
        "folksy": r"folksy|drawl|homely|loose",
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
        "sea": r"sea|boats|sailors' gear",
        "garden": r"gardens?|plants|beds",
        "kitchen": r"kitchens?|pots|food",
        "market": r"markets?|buyers|stalls",
        "mountain": r"mountains?|peaks|trails",
        "music": r"music|songs|players",
        "school": r"schools?|pupils|books",
        "railway": r"railways?|trains|tracks",
    },
    "goal": {
        "find": r"found|find|search(?:ed)?",
        "mend": r"mend(?:ed)?|repair(?:ed)?|fix(?:ed)?",
        "sell": r"sold|sell",
        "hide": r"hidden|hide",
        "give": r"given|gift|give",
    },
    "drill": {"yes": r"tests?|drill", "no": r"live service|real visitors|visitors"},
    "switch": {"spanish": r"switch of language|change of language|language is about to change"},
}

# What is due next, by the slot of the grammar. `link` and `hint` words are named themselves.
NEXT: dict[str, tuple[str, ...]] = {
    "thing": ("a thing-word comes next", "a common noun must follow"),
    "deed": ("an action comes next", "a verb of doing must follow"),
    "place": ("a spot comes next", "a location must follow"),
    "manner": ("a manner comes next", "an adverb must follow"),
    "quality": ("a quality comes next", "an adjective must follow"),
    "closing": ("a closing clause comes next", "a final clause must follow"),
    "degree": ("a degree comes next", "an intensifier must follow"),
    "opener": ("an opening phrase comes next", "a connective must follow"),
    "saying": ("a verb of saying comes next", "a speech verb must follow"),
    "joiner": ("a joining word comes next", "a conjunction must follow"),
    "aside": ("an aside comes next", "an interjection must follow"),
    "comparison": ("a comparison comes next", "a simile must follow"),
    "purpose": ("the wish comes next", "the verb of the aim must follow"),
    "name": ("a name comes next", "a proper noun must follow"),
    "number": ("a number comes next", "a figure must follow"),
    "rhyme": ("the rhyming word comes next", "the rhyme must follow"),
    "answer": ("the answer comes next", "the reply itself must follow"),
    "line-end": ("the line's end comes next", "the end word must follow"),
    "attribute": ("what is asked comes next", "the thing in question must follow"),
    "end": ("a mark comes next", "punctuation must follow"),
    "rest": ("the word is unfinished", "the rest of the word must follow"),
    "form": ("the form goes on", "a new line must follow"),
    "sign": ("a telling phrase comes next", "a notice must follow"),
    "conduct": ("a promise comes next", "an assurance must follow"),
    "day": ("a weekday comes next", "the day of the week must follow"),
}
NEXT_OPEN = ("many things may come next", "what follows is open")

NEXT_KEYWORDS: dict[str, str] = {
    "thing": r"thing-word|common noun",
    "deed": r"an action|verb of doing",
    "place": r"a spot|location",
    "manner": r"a manner|adverb",
    "quality": r"a quality|adjective",
    "closing": r"closing clause|final clause",
    "degree": r"a degree|intensifier",
    "opener": r"opening phrase|connective",
    "saying": r"verb of saying|speech verb",
    "joiner": r"joining word|conjunction",
    "aside": r"an aside|interjection",
    "comparison": r"comparison|simile",
    "purpose": r"the wish|verb of the aim",
    "name": r"a name|proper noun",
    "number": r"a number|a figure",
    "rhyme": r"rhyming word comes|the rhyme must",
    "answer": r"answer comes|the reply itself",
    "line-end": r"line's end|end word",
    "attribute": r"what is asked|thing in question",
    "end": r"a mark|punctuation",
    "rest": r"unfinished|rest of the word",
    "form": r"form goes on|new line",
    "sign": r"telling phrase|notice",
    "conduct": r"promise|assurance",
    "day": r"weekday|day of the week",
}
