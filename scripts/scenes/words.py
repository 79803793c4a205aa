"""The words for each attribute: synonyms and phrases that captions are made of."""

from functools import cache

KIND_WORDS = {
    "city": """city|the city|a big city|a futuristic city|futuristic city|a city skyline|skyline|downtown|a cityscape|
        skyscrapers|a metropolis|a town|tall buildings|a neon city|a cyberpunk city|an urban skyline|city lights|
        a city street|a busy city with cars|cars passing through a city|new york|tokyo|a modern city|towers|buildings|
        a sci-fi city|city of the future|houses and towers""",
    "ocean": """ocean|the ocean|ocean waves|waves|the sea|sea|a seascape|rolling waves|waves rolling on the sea|
        open water|the open sea|a calm sea|sea waves|waves of the ocean|the coast|the seaside|a beach|a stormy ocean|
        waves crashing|water|blue water|the pacific ocean|a bay|surf|an ocean view""",
    "mountains": """mountains|the mountains|a mountain range|snowy peaks|peaks|the alps|a mountain|hills|
        a mountain landscape|rocky summits|snow capped mountains|mountain peaks|high mountains|a valley and mountains|
        a ridge|snowy mountains|mount everest|a mountain view|distant mountains|clouds over mountains""",
    "forest": """forest|a forest|the woods|woods|pine trees|trees|a pine forest|woodland|a dense forest|jungle|
        a grove of trees|tall trees|a dark forest|a green forest|fir trees|forest trees|an enchanted forest|
        a row of trees|in the forest|deep woods""",
    "desert": """desert|a desert|the desert|dunes|sand dunes|the sahara|a sandy desert|a desert landscape|golden dunes|
        sand|desert dunes|an endless desert|dry desert|desert sands|arabian desert|a sea of sand|rolling dunes|
        hot desert""",
}
TIME_WORDS = {
    "night": """at night|by night|at midnight|under the stars|under a starry sky|in the moonlight|after dark|
        late at night|under the moon|in the night|with a starry night sky|at nighttime|in the dark of night""",
    "sunrise": """at sunrise|at dawn|at daybreak|in the early morning|in the morning|as the sun rises|at first light|
        during sunrise|with the sun coming up|in morning light|in the rising sun""",
    "noon": """at noon|at midday|in daylight|during the day|in the afternoon|by day|in the middle of the day|
        under a blue sky|in bright sunshine|on a sunny day|at daytime|in the midday sun""",
    "sunset": """at sunset|at dusk|in the evening|at twilight|as the sun sets|at golden hour|as the sun goes down|
        during sunset|with the sun going down|at sundown|in the setting sun""",
}
TIME_NOUNS = {
    "night": "night|midnight|starry night|moonlit night|nighttime",
    "sunrise": "sunrise|dawn|daybreak|early morning|morning",
    "noon": "noon|midday|daytime|sunny day|afternoon",
    "sunset": "sunset|dusk|sundown|evening|twilight",
}
SHAPE_WORDS = {
    "circle": "circle|circle|circle|disc|disk|ball|dot|round circle",
    "square": "square|square|square|box|block|square block",
    "triangle": "triangle|triangle|triangle|triangular shape",
    "star": "star|star|star|five pointed star|star shape",
    "heart": "heart|heart|heart|heart shape|love heart",
}
COLOUR_WORDS = {
    "red": "red|red|red|red|crimson|scarlet|bright red",
    "orange": "orange|orange|orange|orange|bright orange|tangerine",
    "yellow": "yellow|yellow|yellow|yellow|gold|golden|bright yellow",
    "green": "green|green|green|green|dark green|emerald|bright green",
    "cyan": "cyan|cyan|cyan|cyan|teal|turquoise|aqua|light blue|sky blue",
    "blue": "blue|blue|blue|blue|dark blue|navy|royal blue|deep blue",
    "purple": "purple|purple|purple|purple|violet|dark purple",
    "pink": "pink|pink|pink|pink|light pink|rose|magenta",
    "white": "white|white|white|white|snow white",
    "black": "black|black|black|black|dark black",
}
PLACE_WORDS = {
    "left": "on the left|at the left|on the left side|at left|to the left|in the left half|on the left hand side",
    "right": "on the right|at the right|on the right side|at right|to the right|in the right half",
    "top": "at the top|on top|in the upper part|at the upper edge|near the top|in the top half|up top",
    "bottom": "at the bottom|in the lower part|near the bottom|at the lower edge|in the bottom half|down low",
    "centre": "in the centre|in the middle|at the center|in the center|centered|in the very middle|at the centre",
}
MOTION_WORDS = {
    "left": """moving left|going left|sliding left|drifting left|moving to the left|sliding to the left|flying left|
        travelling left|moves left|moving leftwards|moving from right to left|goes to the left""",
    "right": """moving right|going right|sliding right|drifting right|moving to the right|sliding to the right|
        flying right|travelling right|moves right|moving rightwards|moving from left to right|goes to the right""",
    "up": """moving up|going up|rising|moving upwards|floating up|flying up|moves up|moving to the top|rising up|
        sliding up|moving from bottom to top|climbing""",
    "down": """moving down|going down|falling|moving downwards|dropping|sinking|moves down|moving to the bottom|
        falling down|sliding down|moving from top to bottom|descending""",
    "grow": """growing|getting bigger|expanding|growing larger|becoming larger|grows|zooming in|getting larger|
        growing bigger|swelling|coming closer|that grows""",
}
ADJECTIVES = """beautiful|calm|quiet|misty|vast|old|peaceful|lonely|magical|stunning|colourful|dreamy|epic|cinematic|
    detailed|simple|minimalist|flat|vibrant|lovely|nice|great|wonderful|soft|warm|cold|clear|empty|small|large|big|
    tiny"""
SUFFIXES = """highly detailed|4k|8k|digital art|flat illustration|cinematic lighting|masterpiece|wallpaper|poster|
    concept art|vector art|trending|beautiful colours|minimal|sharp focus|wide angle|drone shot|best quality|
    slow motion|timelapse|with clouds|with clouds drifting by|smooth animation|in motion|vivid|dramatic"""
# One string, because a list of 200 literals reads worse.
FILLER = """dog cat bird car house tree person man woman child robot dragon castle ship boat plane train table chair
    book cup apple banana flower garden street road bridge river lake field farm horse cow fish whale lion tiger bear
    running walking sitting eating flying jumping reading playing wearing holding looking smiling with without and or
    under over near behind between inside outside through happy sad angry fast slow new ancient shiny wooden metal
    glass paper stone portrait landscape photo painting sketch render style anime realistic abstract blurry ugly bad
    low quality watermark text logo noise grain artifact deformed the a an of in on at for from by is are was it his
    her their our your some many few two three four five one first last next every very really quite please make draw
    show create generate give me picture scene something anything music guitar piano phone computer space planet
    rocket galaxy astronaut knight wizard king queen princess monster alien spaceship pirate treasure island volcano
    storm rain snow wind fog fire ice lava smoke cloud rainbow market shop school kitchen bedroom pizza coffee cake
    bread wine cheese soup hat shoe shirt dress jacket watch ring clock lamp door window wall floor
    roof""".split()  # noqa: SIM905


@cache
def split(words: str) -> tuple[str, ...]:
    """Returns the phrases of one of the tables above."""
    return tuple(" ".join(phrase.split()) for phrase in words.split("|"))
