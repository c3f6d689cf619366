"""What general captions can name: concepts with their grammar, and background colours.

A concept is named as the emoji tables name it, so its pictures can be found there. Three lists
hold the countable names, the plural ones and those of materials, because captions need articles.
"""

from __future__ import annotations

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 48, 44),
    "maroon": (118, 24, 40),
    "orange": (240, 140, 40),
    "yellow": (246, 214, 70),
    "beige": (226, 204, 164),
    "olive": (122, 122, 44),
    "lime": (164, 208, 60),
    "green": (52, 142, 70),
    "mint": (158, 226, 190),
    "teal": (32, 138, 138),
    "sky blue": (130, 196, 240),
    "blue": (44, 84, 190),
    "navy": (28, 36, 92),
    "purple": (122, 62, 164),
    "magenta": (206, 48, 150),
    "pink": (244, 150, 184),
    "brown": (122, 82, 52),
    "grey": (140, 142, 146),
    "white": (244, 244, 242),
    "black": (28, 28, 30),
}
"""Background colours by name, as the RGB of their middle shade."""

_COUNTABLE = """
ant, badger, bat, bear face, beaver, beetle, bird, bison, black cat, blossom, blowfish, boar,
bouquet, butterfly, cactus, cat, cat face, cherry blossom, chicken, chipmunk, cockroach, cow,
cow face, crab, cricket, crocodile, deer, dog, dog face, dolphin, donkey, dove, dragon,
dragon face, dromedary camel, duck, eagle, elephant, evergreen tree, feather, fish, flamingo, fly,
four leaf clover, fox face, frog face, giraffe face, goat, goose, gorilla, hamster face,
hedgehog, hibiscus, hippopotamus, honeybee, horse, horse face, hyacinth, jellyfish, kangaroo,
koala, lady beetle, leopard, lion face, lizard, llama, lobster, lotus, mammoth, maple leaf,
microbe, monkey, monkey face, moose, mosquito, mouse, mouse face, mushroom, octopus, orangutan,
otter, owl, ox, palm tree, panda face, parrot, peacock, penguin, phoenix, pig, pig face, poodle,
potted plant, rabbit, rabbit face, raccoon, ram, rat, rhinoceros, rooster, rose, rosette,
sauropod, scorpion, seal, seedling, shamrock, shark, sheep, shrimp, skunk, sloth, snail, snake,
spider, spider web, spiral shell, spouting whale, squid, sunflower, swan, tiger, tiger face,
tropical fish, tulip, turkey, turtle, water buffalo, whale, white flower, wing, wolf face, worm,
zebra face, amphora, aubergine, avocado, baby bottle, bagel, banana, beer mug, bell pepper,
bento box, birthday cake, burrito, carrot, cheese wedge, chestnut, chocolate bar,
cocktail glass, coconut, cookie, croissant, cucumber, cupcake, doughnut, dumpling, egg,
fortune cookie, green apple, hamburger, honey pot, hot dog, hot pepper, ice cube, jar,
kiwifruit, lemon, lollipop, mango, melon, moon cake, onion, peach, pear, pie, pineapple,
potato, poultry leg, pretzel, red apple, rice ball, rice cracker, salt shaker, sandwich, shortcake,
spoon, strawberry, taco, takeout box, tamale, tangerine, teapot, tomato, tropical drink,
waffle, watermelon, wine glass, american football, artist palette, balloon, baseball,
boxing glove, carp streamer, chess pawn, christmas tree, confetti ball, crystal ball,
curling stone, diving mask, firecracker, flying disc, framed picture, game die, goal net,
ice skate, joystick, kite, knot, magic wand, military medal, mirror ball, party popper, pinata,
red gift envelope, reminder ribbon, ribbon, rugby football, sled, slot machine, soccer ball,
sports medal, teddy bear, ticket, trophy, video game, volleyball, wind chime, wrapped present,
abacus, accordion, alembic, athletic shoe, axe, banjo, basket, bathtub, battery, bed, bell,
bomb, boomerang, briefcase, broom, bucket, camera, candle, chair, clipboard, coat, coin,
credit card, crown, dagger, door, dress, envelope, film projector, fire extinguisher, floppy disk,
flute, fountain pen, gear, gem stone, guitar, hammer, handbag, harp, headphone, hiking boot,
hook, key, kimono, ladder, lipstick, lock, magnet, microphone, microscope, military helmet,
mirror, mouse trap, movie camera, musical keyboard, musical note, necktie, newspaper, notebook,
old key, paintbrush, paperclip, pencil, pill, postbox, pushpin, radio, razor, ring, safety pin,
saxophone, scarf, school satchel, screwdriver, scroll, shield, shopping trolley, shovel, sponge,
stethoscope, studio microphone, syringe, t-shirt, telescope, television, test tube, toolbox,
toothbrush, top hat, trumpet, video camera, violin, window, wrench, airplane, alarm clock,
ambulance, anchor, auto rickshaw, barber pole, bicycle, bus, canoe, church, circus tent,
closed umbrella, cloud, comet, compass, construction sign, crescent moon, delivery truck, droplet,
factory, ferris wheel, fire engine, flying saucer, fountain, fuel pump, glowing star, helicopter,
hourglass, house building, hut, mantelpiece clock, motor scooter, motorcycle, mountain,
octagonal sign, oil drum, parachute, pickup truck, police car, racing car, railway car, rainbow,
ring buoy, ringed planet, rocket, roller coaster, roller skate, sailboat, satellite, scooter,
skateboard, small airplane, snowflake, snowman, speedboat, steam locomotive, stopwatch, taxi, tent,
thermometer, tornado, tractor, tram, umbrella, volcano, watch, wheel, alien monster, ghost, skull,
robot face
"""
_PLURAL = """
beans, blueberries, cherries, chopsticks, french fries, grapes, pancakes, peanuts, fireworks,
japanese dolls, nesting dolls, sparkles, ballet shoes, black scissors, books, bubbles, chains,
crossed swords, eyeglasses, gloves, goggles, jeans, linked paperclips, maracas, prayer beads,
shopping bags, shorts, socks, sunglasses, paw prints
"""
_MATERIAL = """
bacon, baguette bread, bread, broccoli, bubble tea, butter, candy, coral, falafel, flatbread,
garlic, ginger root, green salad, herb, ice cream, popcorn, shaved ice, soft ice cream,
spaghetti, sushi, wood, fire
"""


def _names(block: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in block.replace("\n", " ").split(",") if name.strip())


COUNTABLE, PLURAL, MATERIAL = _names(_COUNTABLE), _names(_PLURAL), _names(_MATERIAL)
NAMES: tuple[str, ...] = tuple(sorted((*COUNTABLE, *PLURAL, *MATERIAL)))
"""Every concept, in the order of the alphabet."""


def article(word: str) -> str:
    """The indefinite article that a word takes.

    >>> article("orange"), article("unicorn"), article("hourglass"), article("teal")
    ('an', 'a', 'an', 'a')
    """
    silent = ("hour", "heir", "honest")
    consonant = ("uni", "use", "eu", "one")
    vowel = word[0] in "aeiou" and not word.startswith(consonant)
    return "an" if vowel or word.startswith(silent) else "a"


def noun_phrase(name: str, adjective: str = "") -> str:
    """A concept as captions say it, with its article where it takes one.

    >>> noun_phrase("owl"), noun_phrase("owl", "small"), noun_phrase("cherries", "large")
    ('an owl', 'a small owl', 'large cherries')
    """
    words = f"{adjective} {name}" if adjective else name
    return f"{article(words)} {words}" if name in _WITH_ARTICLE else words


_WITH_ARTICLE = frozenset(COUNTABLE)
