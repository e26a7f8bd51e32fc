"""Pairs in several threads, and in processes that are forked from them: right, one after the other."""

import collections
import concurrent.futures
import copy
import multiprocessing
import random
import threading
import warnings
from contextlib import contextmanager

import pyro
import pytest
import torch

import pairs
import pyro_priors as pp
import runs
from pyro_priors import metrics
from pyro_priors._lock import LOCK, exchanging, own_store
from pyro_priors.rng import own_generators, seeded

NUM_THREADS = 4


def in_threads(function, arguments):
    """What a function returns for each argument, called in several threads."""
    with concurrent.futures.ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(function, arguments))


def without_seconds(history: pp.training.progress.History) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history.epochs]


def test_a_threaded_server_gets_the_categories_that_it_asks_for():
    pair = pp.create("cp_vae", x_shape=(6,), z_dim=2, hidden=(8,), num_categories=10)

    def ask(i):
        try:
            return "right" if (pair.sample(8, c=i % 10)["c"] == i % 10).all() else "wrong"
        except Exception as error:
            return type(error).__name__

    assert collections.Counter(in_threads(ask, range(4000))) == {"right": 4000}


def a_pair(name):
    torch.manual_seed(1)
    return pairs.create(name), pairs.batch(name)


@pytest.mark.parametrize("name", ["vae", "cp_vae", "hvae", "cvamp_cvae", "sigma_cvae_nf"])
def test_methods_give_in_threads_what_they_give_alone(name):
    """Those that draw nothing, and of those that do a check of their parts."""
    pair, batch = a_pair(name)
    pair.train()
    codes, decoded = pair.encode(*batch), pair.reconstruct(*batch)

    def call(i):
        method = ("encode", "posterior_and_prior", "reconstruct", "log_prob", "sample")[i % 5]
        if method == "sample":
            found = pair.sample(7, *(value[0] for value in batch[1:]))
            return found["x"].shape == (7, *batch[0].shape[1:]) and set(found) == {*codes, "x", "x_mean"}
        found = getattr(pair, method)(*batch, **({"num_samples": 9} if method == "log_prob" else {}))
        if method == "log_prob":
            return bool(found.isfinite().all())
        if method == "reconstruct":
            return torch.equal(found, decoded)
        each = found if method == "encode" else {site: posterior for site, (posterior, _) in found.items()}
        return all(torch.equal(each[site].mean, q.mean) for site, q in codes.items() if site != "c")

    assert all(in_threads(call, range(60)))
    assert all(module.training for module in pair.modules())
    assert not pyro.get_param_store()


def test_evaluations_in_threads_give_what_they_give_alone():
    data = runs.small_data()
    made = {name: runs.small_pair(name, data) for name in ("vae", "cp_vae")}
    options = {"num_samples": 20, "progress": False}
    alone = {name: metrics.evaluate(pair, data, **options) for name, pair in made.items()}
    before = torch.get_rng_state()
    names = ["vae", "cp_vae"] * 3
    evaluations = in_threads(lambda name: metrics.evaluate(made[name], data, **options), names)
    assert evaluations == [alone[name] for name in names]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_in_threads_is_what_it_is_alone():
    """Of a pair whose noise is given; SVI would need Pyro's own stack for itself."""
    pair, part = runs.given_noise_pair(), runs.given_noise_data().train
    x, noise = part.x.double(), part.condition.double()
    expected = pair.elbo(pair.model, pair.guide)(x, noise).item()
    compiled = pp.compiled(pair)

    def call(i):
        if i % 3 == 0:
            return pair.elbo.loss(pair.model, pair.guide, x, noise)
        if i % 3 == 1:
            return pp.objectives.log_importance_weights(pair.model, pair.guide, x, noise).mean().item() * -1
        return compiled(x, noise).item()

    for i, found in enumerate(in_threads(call, range(30))):
        if i % 3 != 1:
            assert found == pytest.approx(expected, abs=1e-9)
        else:  # sampled, where the loss has a KL in closed form or not; a Delta has none
            assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("compile", ["never", pytest.param("always", marks=pytest.mark.slow)])
def test_trainings_in_threads_next_to_a_server_end_with_the_bits_of_trainings_alone(compile):
    options = {"max_epochs": 2, "batch_size": 16, "progress": False, "compile": compile}
    data = runs.small_data()
    alone = {name: runs.small_pair(name, data) for name in ("vae", "cp_vae")}
    expected = {name: without_seconds(pp.fit(pair, data, **options)) for name, pair in alone.items()}
    trained = {name: runs.small_pair(name, data) for name in alone}
    server, served, done = runs.small_pair("cp_vae", data, seed=3), [], threading.Event()

    def serve():
        while not done.is_set():
            c = len(served) % 10
            served.append(bool((server.sample(4, c=c)["c"] == c).all()) and len(trained["vae"].sample(3)["x"]) == 3)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        serving = pool.submit(serve)
        found = {name: pool.submit(pp.fit, pair, data, **options) for name, pair in trained.items()}
        histories = {name: without_seconds(future.result()) for name, future in found.items()}
        during = len(served)
        done.set()
        serving.result()
    assert histories == expected
    for name, pair in trained.items():
        assert runs.same_bits(runs.state(pair), runs.state(alone[name]))
    assert during > 5  # a server does not wait for the end of a training
    assert all(served)
    assert not pyro.get_param_store()


def test_draws_next_to_a_training_go_on_with_the_state_of_the_generator():
    """They neither repeat with each training nor are drawn again after it."""
    data = runs.small_data()
    server, *pairs = (runs.small_pair("vae", data) for _ in range(3))
    drawn, done = [], threading.Event()

    def serve():
        while not done.is_set():
            drawn.append(server.sample(2)["z"])

    torch.manual_seed(5)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve)
        for pair in pairs:
            pp.fit(pair, data, max_epochs=1, batch_size=16, progress=False)
        done.set()
        serving.result()
    after = server.sample(2)["z"]
    torch.manual_seed(5)
    assert torch.equal(
        torch.stack([*drawn, after]), torch.stack([server.sample(2)["z"] for _ in range(len(drawn) + 1)])
    )


def test_a_training_in_a_context_that_holds_the_lock_keeps_it():
    """Others must not run while a pair is in evaluation mode, or a generator is seeded, for something else."""
    data, came, began = runs.small_data(), [], threading.Event()
    pair, server = runs.small_pair("vae", data), runs.small_pair("vae", data)

    def serve():
        began.set()
        server.sample()
        came.append(threading.get_ident())

    with seeded(0):
        thread = threading.Thread(target=serve)
        thread.start()
        began.wait()
        pp.fit(pair, data, max_epochs=1, batch_size=16, progress=False)
        assert not came
    thread.join()
    assert came


def test_the_lock_passes_on_what_its_owner_found_and_gives_it_back():
    """Generators, store and depth are the owner's own again; a waiting thread saw those of before."""
    seen, entered = {}, threading.Event()

    def other():
        entered.set()
        with LOCK:
            seen["store"] = list(pyro.get_param_store())
            seen["drawn"] = torch.rand(())

    torch.manual_seed(3)
    pyro.param("outside", torch.zeros(()))
    with own_generators(), own_store():
        torch.manual_seed(4)
        pyro.param("inside", torch.zeros(()))
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait()
        while thread.is_alive():
            LOCK.give_way()
        assert list(pyro.get_param_store()) == ["inside"]
        own = torch.rand(2)
    assert list(pyro.get_param_store()) == ["outside"] == seen["store"]
    torch.manual_seed(4)
    assert torch.equal(own, torch.rand(2))
    torch.manual_seed(3)
    assert torch.equal(seen["drawn"], torch.rand(()))
    assert not LOCK.is_owned


def test_the_lock_is_not_passed_on_within_handlers():
    """They would see the other thread's sites."""
    began, came = threading.Event(), []

    def other():
        began.set()
        with LOCK:
            came.append(True)

    with LOCK:
        thread = threading.Thread(target=other)
        thread.start()
        began.wait()
        with pyro.poutine.trace():
            for _ in range(100):
                LOCK.give_way()
        assert not came
    thread.join(10)
    assert came


def test_an_interrupted_wait_leaves_the_lock_with_its_owner(monkeypatch):
    """So that the contexts around it can be left; then the error goes on."""
    began, exchanged = threading.Event(), []

    def other():
        began.set()
        with LOCK:
            pass

    acquire, interrupted = LOCK.acquire, []

    def interrupted_once():
        if threading.current_thread() is threading.main_thread() and not LOCK.is_owned and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        acquire()

    with pytest.raises(KeyboardInterrupt), exchanging(lambda: exchanged.append(LOCK.is_owned)):
        thread = threading.Thread(target=other)
        thread.start()
        began.wait()
        monkeypatch.setattr(LOCK, "acquire", interrupted_once)
        while True:
            LOCK.give_way()
    thread.join(10)
    assert exchanged == [True, True, True]
    assert not LOCK.is_owned


def sample_in_child(pair):
    torch.set_num_threads(1)  # libgomp's threads are not there after a fork
    assert (pair.sample(5, c=1)["c"] == 1).all()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_a_process_that_is_forked_while_other_threads_hold_the_lock_can_run_programs():
    pair, done = pairs.create("cp_vae"), threading.Event()

    def serve():
        while not done.is_set():
            pair.sample(2)

    threads = [threading.Thread(target=serve) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork among threads, from Python 3.12 on
            children = [
                multiprocessing.get_context("fork").Process(target=sample_in_child, args=(pair,)) for _ in range(5)
            ]
            for child in children:
                child.start()
        for child in children:
            child.join(120)
        assert [child.exitcode for child in children] == [0] * 5
    finally:
        done.set()
        for thread in threads:
            thread.join()
        for child in children:
            child.kill()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_a_fork_within_the_lock_leaves_it_with_both_processes():
    context, found = multiprocessing.get_context("fork"), None

    def child(pipe):
        owned = LOCK.is_owned
        LOCK.release()
        pipe.send((owned, LOCK.is_owned))

    here, there = context.Pipe()
    with warnings.catch_warnings(), LOCK:
        warnings.simplefilter("ignore", DeprecationWarning)
        process = context.Process(target=child, args=(there,))
        process.start()
        found = here.recv()
        process.join(60)
        assert LOCK.is_owned
    assert found == (True, False)
    assert not LOCK.is_owned


def test_pairs_are_copied_and_trained_in_other_threads():
    """The lock is not in the pair."""
    data = runs.small_data()
    pair = runs.small_pair("vae", data)
    copies = in_threads(lambda _: copy.deepcopy(pair), range(4))
    in_threads(lambda one: pp.fit(one, data, max_epochs=1, progress=False), copies)
    assert all(runs.same_bits(runs.state(one), runs.state(copies[0])) for one in copies)


# draws of other threads


def draw_in_another_thread(num=3):
    thread = threading.Thread(target=torch.rand, args=(num,))
    thread.start()
    thread.join()


class Disturbed(torch.nn.Linear):
    """A decoder during some calls of which another thread draws.

    :param calls: numbers of those calls, of those on batches, of 16 rows, or on validation data, of 40
    :param rows: which of the two are counted
    :param gamma: it draws numbers of its own too, as many as their values decide
    """

    def __init__(self, z_dim, x_dim, calls, rows=16, gamma=False):
        super().__init__(z_dim, x_dim)
        self.calls, self.rows, self.gamma, self.num_calls = set(calls), rows, gamma, 0

    def forward(self, z, **given):
        if z.shape[-2] == self.rows and (torch.is_grad_enabled() or self.rows == 40):
            if self.num_calls in self.calls:
                draw_in_another_thread()
            self.num_calls += 1
        if self.gamma:
            z = z + 0 * torch._standard_gamma(torch.full_like(z, 0.4))
        return pyro.distributions.Bernoulli(logits=super().forward(z)).to_event(1)


HOW = {"max_epochs": 3, "batch_size": 16, "progress": False, "compile": "never"}


@contextmanager
def another_thread():
    """A thread that lives, and does nothing."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def fitted(data, **how):
    torch.manual_seed(0)
    pair = runs.small_pair("vae", data, decoder=Disturbed(2, 64, **how))
    pp.fit(pair, data, **HOW)
    return pair


@pytest.mark.parametrize("call", [0, 1, 5, 9])
def test_a_draw_of_another_thread_during_a_step_is_refused(call):
    """At that step."""
    message = r"^another thread drew random numbers from torch's generator during step \d+, which"
    with another_thread(), pytest.raises(ValueError, match=message) as error:
        fitted(runs.small_data(), calls=[call])
    step = int(str(error.value).split("step ")[1].split(",")[0])
    assert step == call and "give that thread its own torch.Generator" in str(error.value)


@pytest.mark.parametrize("call", [0, 1, 2])
def test_a_draw_of_another_thread_during_a_validation_is_refused(call):
    """At the end of that epoch."""
    message = "^another thread drew random numbers from torch's generator during a validation, which"
    with another_thread(), pytest.raises(ValueError, match=message):
        fitted(runs.small_data(), calls=[call], rows=40)


@pytest.mark.parametrize("how", ["its own calls", "Python's random numbers"])
def test_where_no_other_thread_runs_every_program_is_taken(how):
    """How many numbers it draws may depend on anything."""

    class Own(Disturbed):
        def forward(self, z, **given):
            self.num_calls += 1
            if self.num_calls % 3 == 0 if how == "its own calls" else random.random() < 0.5:
                z = z + 0 * torch.randn_like(z)
            return super().forward(z)

    data = runs.small_data()
    pair = runs.small_pair("vae", data, decoder=Own(2, 64, calls=[]))
    assert len(pp.fit(pair, data, **HOW).epochs) == 3


def test_numbers_that_depend_on_numbers_are_not_those_of_another_thread():
    data = runs.small_data()
    pairs_ = [fitted(data, calls=[], gamma=True) for _ in range(2)]
    assert runs.same_bits(*map(runs.state, pairs_))
    assert metrics.evaluate(pairs_[0], data, metrics="bound", progress=False)


def test_a_training_next_to_a_thread_that_draws_is_the_same_or_refused():
    """Bits for bits, or one line; counted over several tries."""
    data, outcomes = runs.small_data(), collections.Counter()
    expected = runs.state(fitted(data, calls=[]))
    for pause in (0.0, 0.0, 0.003, 0.01, 0.03):
        done = threading.Event()

        def draw(done=done, pause=pause):
            while not done.wait(pause):
                torch.rand(5)

        thread = threading.Thread(target=draw)
        thread.start()
        try:
            same = runs.same_bits(runs.state(fitted(data, calls=[])), expected)
            outcomes["same" if same else "changed"] += 1
        except ValueError as error:
            assert "another thread drew" in str(error) and "\n" not in str(error)
            outcomes["refused"] += 1
        finally:
            done.set()
            thread.join()
    print(f"{outcomes.total()} trainings next to a thread that draws: {dict(outcomes)}")
    assert not outcomes["changed"] and outcomes["refused"]


@pytest.mark.parametrize("metric", ["bound", "log_likelihood", "prior_gap"])
def test_a_draw_of_another_thread_during_an_evaluation_is_refused(metric):
    """Where that thread ran from before, and its draw is in the first computation or a later one."""
    data = runs.small_data()
    pair = runs.small_pair("vae", data)
    alone = metrics.evaluate(pair, data, metrics=metric, num_samples=3, progress=False)
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert metrics.evaluate(pair, data, metrics=metric, num_samples=3, progress=False) == alone
        calls = []

        def disturb(module, args, output):
            calls.append(len(output.mean))
            if len(calls) == 2:
                draw_in_another_thread()

        pair.guide.encoder.register_forward_hook(disturb)
        with pytest.raises(
            ValueError, match="^another thread drew random numbers from torch's generator during the evaluation of "
        ):
            metrics.evaluate(pair, data, metrics=metric, num_samples=3, progress=False)
    finally:
        done.set()
        thread.join()
