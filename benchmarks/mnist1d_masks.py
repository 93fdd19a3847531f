"""The spatial bias of tickets on MNIST-1D: adjacent weights, and changed signals."""

import functools

import numpy as np

# Rounds whose tickets are trained on changed signals: 92 % sparse, as in the paper.
TRANSFERRED = (11,)
PERMUTATIONS = 10_000


def measure(terms, order):
    """Finds tickets by IMP on signals in an order, and measures them.

    Args:
        terms: The benchmark's `Terms`.
        order: "signals" or "shuffled".

    Returns:
        A row for each measured ticket.
    """
    import tf_tickets as tt

    shuffle = np.random.default_rng([terms.seed, 1]).permutation(40)
    data = terms.data if order == "signals" else arranged(terms.data, shuffle)
    rounds = terms.rounds
    rate = 1 - 0.1**0.1
    search = tt.IMP(rounds, terms.epochs, rate, seed=terms.seed)
    tickets = {t.provenance["round"]: t for t in terms.find(search, data)}
    where = np.argsort(shuffle) if order == "shuffled" else np.arange(40)
    rows = []
    wanted = TRANSFERRED[:1] if terms.quick else TRANSFERRED
    variants = changed(terms, shuffle, order)
    trainers = {name: terms.trainer(data=v) for name, v in variants.items()}
    dense = {name: train(terms, t, t.dense_ticket()) for name, t in trainers.items()}
    for round_, ticket in tickets.items():
        mask = first_mask(ticket)
        row = {
            "round": round_,
            "sparsity": ticket.sparsity,
            "kept": 1 - ticket.sparsity,
            "epochs": (round_ + 1) * terms.epochs,
            "val_accuracy": ticket.metrics["val_accuracy"],
            "test_accuracy": ticket.metrics["test_accuracy"],
            # In the order of time, and in the order of the network's inputs.
            "in_time": adjacency(mask[where], terms.seed),
            "as_given": adjacency(mask, terms.seed),
        }
        if round_ in wanted:
            row["trained_on"] = {
                name: {
                    "dense": dense[name],
                    "ticket": train(terms, trainer, ticket),
                    "shuffled_masks": train(
                        terms,
                        trainer,
                        tt.controls.shuffle_masks(ticket, seed=terms.seed + 1),
                    ),
                    "reinit": train(
                        terms,
                        trainer,
                        tt.controls.reinit(ticket, terms.build, terms.seed + 1000),
                    ),
                }
                for name, trainer in trainers.items()
            }
        rows.append(row)
    return rows


def train(terms, trainer, ticket):
    metrics = trainer.train(ticket, terms.epochs)
    return {name: metrics[name] for name in ("val_accuracy", "test_accuracy")}


def changed(terms, shuffle, order):
    """Returns the data sets that tickets are transferred to, by name.

    As in the notebook of the paper: new signals of the same distribution, signals
    backwards, signals in exchanged halves, and signals with shuffled positions.
    """
    data = (terms.new_signals, *terms.data[1:])
    positions = np.arange(40)
    orders = {
        "new": positions,
        "backwards": positions[::-1],
        "halves": np.concatenate([positions[20:], positions[:20]]),
        "shuffled": shuffle,
    }
    if order == "shuffled":
        # What the ticket was found on, what it was not, and another shuffling.
        other = np.random.default_rng([terms.seed, 2]).permutation(40)
        orders = {"shuffled": shuffle, "new": positions, "reshuffled": other}
    return {name: arranged(data, each) for name, each in orders.items()}


def arranged(data, positions):
    """Returns data whose signals have their positions in another order."""
    return tuple((np.ascontiguousarray(x[:, positions]), y) for x, y in data)


def moved(ticket, seed):
    """Returns a ticket whose first kernel has its positions in another order.

    Each unit keeps as many weights as before, at other positions.
    """
    import tf_tickets as tt

    [path] = [path for path in ticket.masks if "fc1" in path]
    mask = np.asarray(ticket.masks[path])
    order = np.random.default_rng([seed, 4]).permutation(len(mask))
    masks = {**ticket.masks, path: mask[order]}
    return tt.Ticket(masks, ticket.weights, {}, ticket.provenance)


def first_mask(ticket):
    [mask] = [m for path, m in ticket.masks.items() if "fc1" in path]
    return np.asarray(mask, float)


@functools.cache
def _orders(size, seed):
    rng = np.random.default_rng([seed, 3])
    return np.array([rng.permutation(size) for _ in range(PERMUTATIONS)])


def adjacency(mask, seed):
    """Tests whether a unit's weights are at adjacent positions more often than chance.

    The statistic is the number of pairs of kept weights of one unit at neighbouring
    positions. Under the null hypothesis the order of the positions does not matter, so
    it is compared with that of random orders. `residual` is the same with the products
    of deviations from what the number of weights of the position and of the unit lead
    one to expect, so that it is not enough if busy positions lie side by side.

    Args:
        mask: Array of 0 and 1 of shape (positions, units).
        seed: Seed of the random orders.
    """
    orders = _orders(len(mask), seed)
    expected = np.outer(mask.sum(1), mask.sum(0)) / max(mask.sum(), 1.0)
    found = {"weights": int(mask.sum())}
    for name, table in (("pairs", mask), ("residual", mask - expected)):
        products = table @ table.T
        pairs = float(np.trace(products, 1))
        drawn = products[orders[:, :-1], orders[:, 1:]].sum(1)
        spread = float(drawn.std()) or 1.0
        as_large = int((drawn >= pairs - 1e-9).sum())
        found[name] = {
            "found": round(pairs, 4),
            "by_chance": round(float(drawn.mean()), 4),
            "z": round((pairs - float(drawn.mean())) / spread, 3),
            "p": (as_large + 1) / (len(drawn) + 1),
        }
    return found
