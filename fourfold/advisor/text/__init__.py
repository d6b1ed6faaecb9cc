"""Reads a scenario from English sentences: `understand(text)` gives a `Scenario` whose every fact quotes its words.

    prepare      lower case, offered options blanked
    quantities   numbers with units, and their roles (`roles`)
    cues         words that hint, say or state something, negations resolved
    reading      weighs both and decides each fact

Nothing here knows the four modes; they are chosen by `fourfold.advisor.rules` from the facts.
"""

from fourfold.advisor.text.reading import understand

__all__ = ["understand"]
