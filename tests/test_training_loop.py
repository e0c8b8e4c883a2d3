"""Training at a site: what it depends on, how it goes on, and when it stops."""

import numpy as np
import pytest
import torch
from synthetic_cases import ORGANS, TINY, boxes_case

from amos_fl.errors import AmosError, SiteTimeout, TrainingDiverged
from amos_fl.metrics.overlap import dsc
from amos_fl.networks.registry import build_network
from amos_fl.training.loop import StepReport, train
from amos_fl.training.patches.sampler import draw_batch
from amos_fl.training.pull import Pull
from amos_fl.training.schedule import polynomial_learning_rate
from amos_fl.training.settings import TrainingSettings

SETTINGS = TrainingSettings(augmentation="light", threads=1)
PLAIN_SGD = TrainingSettings(augmentation="none", momentum=0, weight_decay=0, gradient_clip=1e6, threads=1)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return boxes_case(tmp_path_factory.mktemp("training"))


def fresh():
    return build_network("small", TINY, len(ORGANS), seed=0)


def run(network, case, settings=SETTINGS, *, steps=4, first_step=0, total_steps=8, site="A", **more):
    return train(
        network,
        [case],
        TINY,
        settings,
        organs=ORGANS,
        seed=0,
        site=site,
        steps=steps,
        first_step=first_step,
        total_steps=total_steps,
        **more,
    )


def weights(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def distance(a, b):
    return float(sum((a[name] - b[name]).square().sum() for name in a)) ** 0.5


def test_the_same_call_gives_the_same_weights_losses_and_momentum(case):
    one, two = fresh(), fresh()
    first = run(one, case)
    torch.manual_seed(3)
    np.random.seed(3)
    run(fresh(), case, site="B", first_step=4)
    second = run(two, case)
    assert equal(weights(one), weights(two))
    assert equal(first.momentum_buffers, second.momentum_buffers)
    assert (first.mean_loss, first.last_loss) == (second.mean_loss, second.last_loss)


def test_two_threads_give_the_same_weights_twice_and_the_threads_before_come_back(case):
    settings = SETTINGS.model_copy(update={"threads": 2})
    before = torch.get_num_threads()
    one, two = fresh(), fresh()
    run(one, case, settings, steps=2)
    run(two, case, settings, steps=2)
    assert equal(weights(one), weights(two))
    assert torch.get_num_threads() == before


def test_training_leaves_the_global_generators_as_they_were(case):
    before = torch.get_rng_state()
    run(fresh(), case, steps=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_2n_steps_are_n_steps_and_n_more_with_their_momentum(case):
    whole, parts = fresh(), fresh()
    at_once = run(whole, case, steps=6)
    first = run(parts, case, steps=3)
    kept = {name: buffer.clone() for name, buffer in first.momentum_buffers.items()}
    second = run(parts, case, steps=3, first_step=3, momentum_buffers=first.momentum_buffers)
    assert equal(weights(whole), weights(parts))
    assert equal(at_once.momentum_buffers, second.momentum_buffers)
    assert equal(kept, first.momentum_buffers)  # the caller's buffers are not trained in
    assert at_once.mean_loss == pytest.approx((first.mean_loss + second.mean_loss) / 2)


def test_without_its_momentum_training_goes_on_otherwise(case):
    whole, parts = fresh(), fresh()
    run(whole, case, steps=6)
    run(parts, case, steps=3)
    run(parts, case, steps=3, first_step=3)
    assert not equal(weights(whole), weights(parts))


def test_worker_processes_change_nothing(case):
    alone, helped = fresh(), fresh()
    run(alone, case)
    run(helped, case, SETTINGS.model_copy(update={"workers": 2}))
    assert equal(weights(alone), weights(helped))


def test_momentum_of_another_network_is_refused(case):
    buffers = {"bottleneck.conv1.conv.weight": torch.zeros(1)}
    with pytest.raises(AmosError, match=r"bottleneck\.conv1\.conv\.weight"):
        run(fresh(), case, momentum_buffers=buffers)


def test_each_step_is_reported_with_the_learning_rate_of_its_number(case):
    reports: list[StepReport] = []
    result = run(fresh(), case, first_step=2, on_step=reports.append)
    assert [report.step for report in reports] == [2, 3, 4, 5]
    assert [report.learning_rate for report in reports] == [polynomial_learning_rate(0.01, n, 8) for n in range(2, 6)]
    assert result.last_loss == reports[-1].loss
    assert result.mean_loss == pytest.approx(np.mean([report.loss for report in reports]))
    assert [report.seconds for report in reports] == sorted(report.seconds for report in reports)


def test_the_learning_rate_falls_to_nothing():
    rates = [polynomial_learning_rate(0.01, step, 100) for step in range(101)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0
    assert rates[50] == pytest.approx(0.01 * 0.5**0.9)


def test_a_report_may_stop_the_training_between_two_steps(case):
    stopped, short = fresh(), fresh()

    def stop(report: StepReport):
        if report.step == 1:
            raise SiteTimeout("site A: out of time")

    with pytest.raises(SiteTimeout):
        run(stopped, case, on_step=stop)
    run(short, case, steps=2)
    assert equal(weights(stopped), weights(short))


def test_a_loss_that_is_not_finite_names_the_site_and_the_step(case):
    network = fresh()

    def spoil(report: StepReport):
        if report.step == 1:
            with torch.no_grad():
                next(network.parameters()).fill_(torch.nan)

    with pytest.raises(TrainingDiverged, match="site A: the loss at step 2 is not finite"):
        run(network, case, on_step=spoil)


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(case):
    network = fresh()
    spoiled = next(network.parameters()).register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(TrainingDiverged, match="site A: the gradient at step 0 is not finite"):
        run(network, case)
    spoiled.remove()
    assert equal(weights(network), weights(fresh()))


def test_steps_beyond_the_total_are_refused(case):
    with pytest.raises(AmosError, match="site A: asked to train steps 6 to 10 of 8"):
        run(fresh(), case, first_step=6)


def test_no_step_changes_nothing(case):
    network = fresh()
    result = run(network, case, steps=0)
    assert equal(weights(network), weights(fresh()))
    assert result.momentum_buffers == {}


def test_the_network_keeps_the_mode_it_came_in(case):
    network = fresh().eval()
    run(network, case, steps=1)
    assert not network.training


def test_one_step_of_plain_descent_is_clipped(case):
    network = fresh()
    run(network, case, PLAIN_SGD.model_copy(update={"gradient_clip": 0.5}), steps=1)
    assert distance(weights(network), weights(fresh())) == pytest.approx(0.01 * 0.5, rel=1e-3)


def test_weight_decay_shrinks_the_weights(case):
    network, decayed = fresh(), fresh()
    run(network, case, PLAIN_SGD, steps=1)
    run(decayed, case, PLAIN_SGD.model_copy(update={"weight_decay": 0.1}), steps=1)
    start, expected = weights(fresh()), weights(network)
    for name, value in network.named_parameters():
        if value.grad is not None:
            expected[name] -= 0.01 * 0.1 * start[name]
    assert distance(weights(decayed), expected) < 1e-5


def test_the_proximal_gradient_agrees_with_finite_differences():
    network = torch.nn.Linear(3, 2).double()
    mu, eps = 0.7, 1e-6
    anchor = [p.detach().clone() for p in network.parameters()]
    pulling = Pull(mu).begin(network)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn(parameter.shape, generator=draw, dtype=torch.float64)

    def term() -> float:
        squares = ((p.detach() - a).square().sum() for p, a in zip(network.parameters(), anchor, strict=True))
        return float(mu / 2 * sum(squares))

    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    pulling.add_to(network)
    for parameter in network.parameters():
        assert parameter.grad is not None
        flat = parameter.detach().view(-1)
        for i in range(flat.numel()):
            flat[i] += eps
            above = term()
            flat[i] -= 2 * eps
            below = term()
            flat[i] += eps
            assert parameter.grad.view(-1)[i].item() == pytest.approx((above - below) / (2 * eps), abs=1e-7)


def test_fedprox_pulls_towards_the_weights_of_the_call(case):
    mu, rate = 0.5, polynomial_learning_rate(0.01, 1, 8)
    start = weights(fresh())
    first, free, pulled = fresh(), fresh(), fresh()
    run(first, case, PLAIN_SGD, steps=1)
    run(free, case, PLAIN_SGD, steps=2)
    run(pulled, case, PLAIN_SGD, steps=2, pull=Pull(mu))
    trained = {name for name, p in free.named_parameters() if p.grad is not None}
    for name in trained:
        expected = weights(free)[name] - rate * mu * (weights(first)[name] - start[name])
        torch.testing.assert_close(weights(pulled)[name], expected, atol=1e-7, rtol=1e-5)


def test_fedprox_of_zero_changes_nothing_and_a_larger_one_stays_nearer(case):
    start = weights(fresh())
    distances = []
    for mu in (0.0, 1.0, 100.0):
        network = fresh()
        run(network, case, PLAIN_SGD, steps=6, pull=Pull(mu))
        distances.append(distance(weights(network), start))
        if mu == 0:
            free = fresh()
            run(free, case, PLAIN_SGD, steps=6)
            assert equal(weights(network), weights(free))
    assert distances == sorted(distances, reverse=True)
    assert distances[2] < 0.8 * distances[0]


def test_the_small_network_learns_one_case(case):
    settings = SETTINGS.model_copy(update={"momentum": 0.9, "learning_rate": 0.05, "augmentation": "none"})
    network = fresh()
    run(network, case, settings, steps=150, total_steps=150)
    network.eval()
    predicted, real = [], []
    for step in range(1000, 1006):
        batch = draw_batch([case], TINY, settings, ORGANS, seed=0, site="A", step=step)
        with torch.no_grad():
            predicted.append(network(batch.image).argmax(1).numpy())
        real.append(batch.label.numpy())
    predicted, real = np.concatenate(predicted), np.concatenate(real)
    for channel in range(1, 1 + len(ORGANS)):
        assert dsc(predicted == channel, real == channel) > 0.9
