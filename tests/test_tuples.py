"""Learned layouts of tuples say what the walk over their attributes says."""

import random

from test_decode import batch, every_layout, mutated

from ctk.conntrack.attributes import MalformedError
from ctk.conntrack.decode import Decoder, Event
from ctk.conntrack.tuples import TupleReader, parse_tuples

MUTATIONS = 10_000


def test_a_reader_that_has_learned_reads_as_the_walk_does():
    chance = random.Random(2)
    originals = every_layout()
    reader, decoder = TupleReader(), Decoder()
    good = [Event(*values) for raw in originals for values in decoder.read(batch(raw, at_ns=7))]
    for event in good:
        key = (event.orig, event.reply, event.zone)
        assert reader.read(*key) == reader.read(*key) == parse_tuples(*key)
    both_refuse = 0
    for _ in range(MUTATIONS):
        event = chance.choice(good)
        tuples = bytearray(event.orig + event.reply)
        for _ in range(chance.choice((1, 1, 2, 4))):
            tuples[chance.randrange(len(tuples))] = chance.choice(
                (0, 1, 4, 8, chance.getrandbits(8))
            )
        cut = len(event.orig)
        key = (bytes(tuples[:cut]), bytes(tuples[cut:]), event.zone)
        try:
            expected = parse_tuples(*key)
        except MalformedError:
            expected = None
        try:
            found = reader.read(*key)
        except MalformedError:
            found = None
        assert found == expected
        both_refuse += expected is None
    assert MUTATIONS / 100 < both_refuse < MUTATIONS * 0.99


def test_a_mutated_message_may_be_learned_without_harm_to_the_others():
    chance = random.Random(3)
    originals = every_layout()
    decoder, reader = Decoder(), TupleReader()
    for _ in range(MUTATIONS):
        for values in decoder.read(batch(mutated(chance, chance.choice(originals)), at_ns=7)):
            event = Event(*values)
            key = (event.orig, event.reply, event.zone)
            try:
                expected = parse_tuples(*key)
            except MalformedError:
                continue
            assert reader.read(*key) == expected
