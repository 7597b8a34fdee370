"""Exchanges of MindSpore's workers that are wrong, each in one place. MindSpore compiles them, so they are classes."""

from mindspore import ops

from ms_bert.training.exchange import Sharded, _flat


class Chain(Sharded):
    """The workers' sums are added one after the other, as a ring does."""

    def reduced(self, gradients):
        found, last = (), None
        for reduce in self.reduces:
            sent = ()
            for number, begin, end in reduce.parts:
                sent += (_flat(gradients, number, begin, end),)
            sent = ops.concat(sent)
            if last is not None:
                sent = ops.depend(sent, last)
            every = ops.reshape(self.all_gather(sent), (-1, sent.shape[0]))
            last = every[0]
            for worker in range(1, every.shape[0]):
                last = last + every[worker]
            own = last
            for lower in reduce.lower:
                half = own.shape[0] // 2
                own = own[:half] if lower else own[half:]
            for begin, end, shape in reduce.own:
                found += (ops.reshape(own[begin:end], shape),)
        return found


class TileNotSent(Sharded):
    """The second worker's first tile does not come to any."""

    def published(self, done):
        for bucket in range(len(self.publishes)):
            first, end = self.ends[bucket]
            pieces = self.pieces[first:end]
            if bucket == 0 and self.shards.workers.rank == 1:
                pieces = (ops.zeros_like(pieces[0]), *pieces[1:])
            done = self.publishes[bucket](pieces, done)
        return done


class Stale(Sharded):
    """The parameters stay as they were before the update."""

    def published(self, done):
        return done
