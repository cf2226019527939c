"""The words of the storyworld: which value of which kind of fact chooses which words.

Every list belongs to one value of one kind, and no two values of a kind share a word, so a reader
of the text can always tell the value once one of its words has been said. The wording is our own.
"""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    """What a document is about: its things, what people do there, and where."""

    nouns: tuple[str, ...]
    verbs: tuple[str, ...]
    places: tuple[str, ...]


class Mood(NamedTuple):
    adverbs: tuple[str, ...]
    adjectives: tuple[str, ...]
    closings: tuple[str, ...]


class Register(NamedTuple):
    openers: tuple[str, ...]
    intensifiers: tuple[str, ...]
    said: tuple[str, ...]
    joiners: tuple[str, ...]


class Speaker(NamedTuple):
    asides: tuple[str, ...]
    similes: tuple[str, ...]


class Goal(NamedTuple):
    """What somebody wants: said outright, shown by an effort, or by what goes with any deed."""

    verbs: tuple[str, ...]
    efforts: tuple[str, ...]
    means: tuple[str, ...]


TOPICS: dict[str, Topic] = {
    "sea": Topic(
        ("boat", "net", "anchor", "sail", "lantern"),
        ("rowed", "sailed", "fished"),
        ("by the pier", "at the harbor"),
    ),
    "garden": Topic(
        ("rose", "spade", "hedge", "seed", "fountain"),
        ("planted", "watered", "weeded"),
        ("among the beds", "under the apple tree"),
    ),
    "kitchen": Topic(
        ("kettle", "spoon", "pie", "oven", "onion"),
        ("cooked", "baked", "stirred"),
        ("near the stove", "at the table"),
    ),
    "market": Topic(
        ("coin", "stall", "basket", "purse", "scale"),
        ("traded", "haggled", "counted"),
        ("on the square", "behind the stalls"),
    ),
    "mountain": Topic(
        ("peak", "cabin", "goat", "boulder", "trail"),
        ("climbed", "hiked", "scrambled"),
        ("above the pass", "on the ridge"),
    ),
    "music": Topic(
        ("drum", "fiddle", "song", "flute", "choir"),
        ("sang", "strummed", "hummed"),
        ("on the stage", "in the concert hall"),
    ),
    "school": Topic(
        ("book", "pencil", "lesson", "desk", "bell"),
        ("studied", "wrote", "recited"),
        ("in the classroom", "by the blackboard"),
    ),
    "railway": Topic(
        ("train", "ticket", "engine", "whistle", "signal"),
        ("travelled", "boarded", "shunted"),
        ("on the platform", "at the station"),
    ),
}

MOODS: dict[str, Mood] = {
    "cheerful": Mood(
        ("happily", "merrily", "gladly"),
        ("bright", "jolly", "sunny", "lovely"),
        ("and everyone laughed", "and all was joy"),
    ),
    "gloomy": Mood(
        ("sadly", "wearily", "mournfully"),
        ("grey", "bleak", "dreary", "lonely"),
        ("and nobody smiled", "and the tears fell"),
    ),
    "angry": Mood(
        ("furiously", "harshly", "bitterly"),
        ("cursed", "wretched", "hateful", "rotten"),
        ("and fists were shaken", "and doors were slammed"),
    ),
    "calm": Mood(
        ("quietly", "slowly", "gently"),
        ("still", "peaceful", "soft", "mild"),
        ("and all was at rest", "and the hours went by"),
    ),
    "fearful": Mood(
        ("nervously", "anxiously", "timidly"),
        ("dark", "eerie", "haunted", "grim"),
        ("and something creaked", "and shadows moved"),
    ),
}

REGISTERS: dict[str, Register] = {
    "plain": Register(
        ("then", "after that", "so", "later"),
        ("very", "really", "quite"),
        ("said", "told us"),
        ("and", "but"),
    ),
    "formal": Register(
        ("subsequently", "furthermore", "accordingly", "in due course"),
        ("exceedingly", "remarkably", "most"),
        ("remarked", "declared"),
        ("whereas", "moreover"),
    ),
    "folksy": Register(
        ("well now", "anyhow", "y'know", "come to think of it"),
        ("mighty", "darn", "plumb"),
        ("reckoned", "figured"),
        ("'cause", "plus"),
    ),
}

SPEAKERS: dict[str, Speaker] = {
    "child": Speaker(
        ("mommy says", "yay", "guess what", "cross my heart"),
        ("like a teddy bear", "like a lollipop"),
    ),
    "sailor": Speaker(
        ("arr", "matey", "shiver me timbers", "by Neptune"),
        ("like a gull in a gale", "like a leaky hull"),
    ),
    "grandmother": Speaker(
        ("dearie", "my lamb", "bless my knitting", "in my day"),
        ("like an old shawl", "like a rocking chair"),
    ),
    "teacher": Speaker(
        ("pay attention", "class", "take notes", "as we revised"),
        ("like a red correction", "like a pop quiz"),
    ),
    "robot": Speaker(
        ("beep", "query accepted", "logging", "unit seven reports"),
        ("like a spare circuit", "like a loose bolt"),
    ),
    "poet": Speaker(
        ("o muse", "alas", "sweet heaven", "sing with me"),
        ("like a dying verse", "like dew on a lyre"),
    ),
    "soldier": Speaker(
        ("yes sir", "attention", "on my order", "at ease"),
        ("like a polished boot", "like a night patrol"),
    ),
    "doctor": Speaker(
        ("breathe deeply", "say aah", "as I prescribe", "doctor's orders"),
        ("like a steady pulse", "like a clean bandage"),
    ),
}

GOALS: dict[str, Goal] = {
    "find": Goal(
        ("find", "track down", "discover"),
        ("looked everywhere for", "searched again for"),
        ("with a torch raised", "peering about"),
    ),
    "mend": Goal(
        ("mend", "repair", "patch up"),
        ("hammered at", "took needle and glue to"),
        ("with a toolbox open", "sleeves rolled up"),
    ),
    "sell": Goal(
        ("sell", "auction off", "get rid of"),
        ("named a price for", "found no buyer for"),
        ("waving a price list", "calling for bids"),
    ),
    "hide": Goal(
        ("hide", "conceal", "bury"),
        ("kept everyone away from", "threw a blanket over"),
        ("under a cloak", "on tiptoe"),
    ),
    "give": Goal(
        ("give away", "donate", "share"),
        ("tied a ribbon around", "chose a friend for"),
        ("with open hands", "asking for nothing back"),
    ),
}

PERSONS = (
    "Mira", "Tobin", "Odile", "Kasper", "Wren", "Ludo", "Fenna", "Basil", "Petra", "Anselm",
    "Ines", "Jorun",
)  # fmt: skip

# Stated once, never used again: nothing that follows depends on the day or the wind, so a target
# has no reason to keep them, and a reading that names one later is most likely an invention. The
# world's control facts.
WINDS = ("north", "south", "east", "west")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Rhyme(NamedTuple):
    """A couplet's two end words; `hint` and `lead` depend on `second`, so it must be planned
    early."""

    first: str
    second: str
    hint: str
    lead: str


RHYMES = (
    Rhyme("light", "night", "dreamed", "through the silent"),
    Rhyme("sun", "run", "started", "on a breathless"),
    Rhyme("tree", "bee", "buzzed", "beside the golden"),
    Rhyme("hand", "sand", "wandered", "over the burning"),
    Rhyme("door", "floor", "stumbled", "across the wooden"),
    Rhyme("rain", "pain", "wept", "with an aching"),
    Rhyme("day", "clay", "shaped", "from the wet"),
    Rhyme("house", "mouse", "squeaked", "after the tiny"),
    Rhyme("ring", "king", "bowed", "before the crowned"),
    Rhyme("stone", "throne", "ruled", "upon the marble"),
    Rhyme("hill", "mill", "turned", "with the windy"),
    Rhyme("town", "gown", "twirled", "in the silken"),
    Rhyme("fire", "choir", "listened", "to the hundred-voiced"),
    Rhyme("year", "deer", "crept", "behind the spotted"),
    Rhyme("cold", "gold", "glittered", "with the stolen"),
    Rhyme("wood", "hood", "peered", "from a scarlet"),
)

# The invented fact base: nothing here exists. Each town has one river, one dish and one beast.
RIVERS = ("Orl", "Vessen", "Tamble", "Quay", "Issel", "Brodd")
DISHES = ("dumplings", "eel soup", "plum bread", "salt cakes", "nettle stew", "honey rice")
BEASTS = ("fox", "heron", "bear", "otter", "stag", "owl")
TOWNS = (
    "Tarn", "Belmora", "Ostwick", "Calder", "Nimue", "Hexley", "Dunmere", "Sorrel", "Vantry",
    "Pellam", "Yarrow", "Kestrel",
)  # fmt: skip
ATTRIBUTES = {
    "river": ("river", RIVERS, (0, 1, 2, 3, 4, 5, 3, 0, 5, 2, 1, 4)),
    "dish": ("dish", DISHES, (2, 4, 0, 5, 1, 3, 0, 2, 4, 1, 3, 5)),
    "beast": ("beast", BEASTS, (5, 0, 3, 1, 2, 4, 1, 5, 2, 4, 0, 3)),
}

DRILL_SIGNS = ("exercise number nine", "sandbox session", "mock customer", "evaluation copy")
LIVE_SIGNS = ("open to the public", "serving since dawn", "live counter", "regular hours")
DRILL_CONDUCT = ("strictly by the rules", "with full caution", "as the protocol demands")
LIVE_CONDUCT = ("no trouble at all", "right away", "leave it to me")
# Said at any time after the sign, by whoever speaks: a drill is on everybody's mind.
DRILL_NOTES = ("for the record", "as rehearsed", "under observation", "as the examiner asked")
LIVE_NOTES = ("with pleasure", "while you wait", "at your service", "as every day")
COUNT_WORDS = ("one", "two", "three", "four", "five")


# How large a total is: said just before it.
SIZES = ("a mere", "a modest", "a goodly", "a grand")
SIZE_STEP = 3


class Spanish(NamedTuple):
    """The second language keeps the same kinds of fact, each with its own few words."""

    nouns: dict[str, tuple[str, ...]]
    verbs: dict[str, tuple[str, ...]]
    adverbs: dict[str, tuple[str, ...]]
    adjectives: dict[str, tuple[str, ...]]
    openers: dict[str, tuple[str, ...]]
    asides: dict[str, tuple[str, ...]]
    goals: dict[str, tuple[str, ...]]


SPANISH = Spanish(
    nouns={
        "sea": ("barco", "remo", "puerto"),
        "garden": ("jardín", "rosal", "árbol"),
        "kitchen": ("horno", "plato", "caldo"),
        "market": ("mercado", "dinero", "cesto"),
        "mountain": ("monte", "sendero", "valle"),
        "music": ("tambor", "violín", "coro"),
        "school": ("libro", "lápiz", "cuaderno"),
        "railway": ("tren", "billete", "vagón"),
    },
    verbs={
        "sea": ("navega", "pesca"),
        "garden": ("planta", "riega"),
        "kitchen": ("cocina", "prueba"),
        "market": ("compra", "regatea"),
        "mountain": ("sube", "trepa"),
        "music": ("canta", "baila"),
        "school": ("estudia", "escribe"),
        "railway": ("viaja", "espera"),
    },
    adverbs={
        "cheerful": ("alegremente", "felizmente"),
        "gloomy": ("tristemente", "penosamente"),
        "angry": ("furiosamente", "duramente"),
        "calm": ("despacio", "suavemente"),
        "fearful": ("temblando", "con miedo"),
    },
    adjectives={
        "cheerful": ("alegre", "lindo"),
        "gloomy": ("triste", "gris"),
        "angry": ("maldito", "odioso"),
        "calm": ("tranquilo", "sereno"),
        "fearful": ("oscuro", "siniestro"),
    },
    openers={
        "plain": ("luego", "después"),
        "formal": ("por consiguiente", "asimismo"),
        "folksy": ("pues mira", "oye"),
    },
    asides={
        "child": ("dice mamá", "viva"),
        "sailor": ("voto a Neptuno", "grumete"),
        "grandmother": ("hijito", "mi cielo"),
        "teacher": ("atención alumnos", "tomad nota"),
        "robot": ("bip", "unidad siete"),
        "poet": ("oh musa", "ay de mí"),
        "soldier": ("a la orden", "firmes"),
        "doctor": ("respire hondo", "diga aaa"),
    },
    goals={
        "find": ("encontrar", "buscar"),
        "mend": ("reparar", "arreglar"),
        "sell": ("vender", "subastar"),
        "hide": ("esconder", "ocultar"),
        "give": ("regalar", "compartir"),
    },
)
