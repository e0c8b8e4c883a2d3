"""The loss: its agreement with MONAI's, and organs that were not annotated."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceCELoss

from amos_fl.training.loss import DiceCrossEntropy, dice_cross_entropy


def problem(seed=0, samples=2, channels=5, side=4, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, channels, side, side, side, generator=draw, dtype=dtype)
    target = torch.randint(0, channels, (samples, side, side, side), generator=draw)
    return logits, target, torch.ones(samples, channels, dtype=torch.bool)


def move_between_background_and(channel, logits, sample, shift):
    """Logits in which probability went from `channel` to background (or back), their sum as before."""
    pair = logits[sample, [0, channel]].clone()
    total = pair.logsumexp(0)
    share = torch.sigmoid(pair[0] - pair[1] + shift)
    moved = logits.clone()
    moved[sample, 0] = total + share.log()
    moved[sample, channel] = total + (1 - share).log()
    return moved


@pytest.mark.parametrize("batch_dice", [True, False])
def test_it_is_monais_on_fully_annotated_batches(batch_dice):
    logits, target, annotated = problem()
    monai = DiceCELoss(
        include_background=False, softmax=True, to_onehot_y=True, batch=batch_dice, smooth_nr=1e-5, smooth_dr=1e-5
    )
    ours = dice_cross_entropy(logits, target, annotated, batch_dice=batch_dice)
    torch.testing.assert_close(ours, monai(logits, target[:, None]))


@pytest.mark.parametrize("batch_dice", [True, False])
@settings(max_examples=25)
@given(seed=st.integers(0, 2**20), shift=st.floats(-4, 4), channel=st.integers(1, 4))
def test_probability_may_move_between_background_and_an_organ_not_annotated(batch_dice, seed, shift, channel):
    logits, target, annotated = problem(seed)
    annotated[0, channel] = False
    before = dice_cross_entropy(logits, target, annotated, batch_dice=batch_dice)
    moved = move_between_background_and(channel, logits, 0, shift)
    torch.testing.assert_close(dice_cross_entropy(moved, target, annotated, batch_dice=batch_dice), before)


def test_where_the_organ_is_annotated_the_same_move_changes_the_loss():
    logits, target, annotated = problem()
    annotated[1, 2] = False
    moved = move_between_background_and(2, logits, 0, 2.0)
    assert abs(dice_cross_entropy(moved, target, annotated) - dice_cross_entropy(logits, target, annotated)) > 1e-3


def test_a_voxel_of_an_organ_not_annotated_counts_as_the_merged_class():
    logits, target, annotated = problem()
    annotated[:, 3] = False
    as_background = torch.where(target == 3, 0, target)
    assert dice_cross_entropy(logits, target, annotated) == dice_cross_entropy(logits, as_background, annotated)


@pytest.mark.parametrize("batch_dice", [True, False])
def test_with_organs_not_annotated_anywhere_it_is_the_loss_of_a_network_without_their_channels(batch_dice):
    logits, target, annotated = problem()
    annotated[:, 2:4] = False
    merged = logits[:, [0, 2, 3]].logsumexp(1, keepdim=True)
    narrow = torch.cat([merged, logits[:, [1, 4]]], dim=1)
    narrow_target = torch.tensor([0, 1, 0, 0, 2])[target]
    torch.testing.assert_close(
        dice_cross_entropy(logits, target, annotated, batch_dice=batch_dice),
        dice_cross_entropy(narrow, narrow_target, annotated[:, [0, 1, 4]], batch_dice=batch_dice),
    )


def test_dice_of_an_organ_counts_only_the_samples_in_which_it_was_annotated():
    logits, target, annotated = problem(channels=2)
    target[1] = 0
    annotated[1, 1] = False
    alone = dice_cross_entropy(logits[:1], target[:1], annotated[:1])
    both = dice_cross_entropy(logits, target, annotated)
    # Sample 1 has only the merged class, whose probability is 1: it halves the cross-entropy and no more.
    cross_entropy = torch.nn.functional.cross_entropy(logits[:1], target[:1])
    torch.testing.assert_close(both, alone - cross_entropy / 2)


def test_a_batch_without_any_annotated_organ_has_loss_zero_and_no_gradient():
    logits, target, annotated = problem()
    annotated[:] = False
    logits.requires_grad_()
    loss = dice_cross_entropy(logits, target, annotated)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


def test_its_gradient_agrees_with_finite_differences():
    logits, target, annotated = problem(side=2, channels=4, dtype=torch.float64)
    annotated[0, 2] = False
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: dice_cross_entropy(z, target, annotated), logits)


def test_absent_organs_and_extreme_logits_give_finite_gradients():
    logits, target, annotated = problem()
    target[:] = 0
    annotated[0, 1:] = False
    logits = (1e4 * logits).requires_grad_()
    dice_cross_entropy(logits, target, annotated).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_the_annotated_mask_is_left_as_it_was():
    logits, target, annotated = problem()
    dice_cross_entropy(logits, target, annotated)
    assert annotated.all()


def test_deep_supervision_weighs_the_heads_and_takes_nearest_labels():
    logits, target, annotated = problem(side=8)
    heads = [logits, logits[:, :, ::2, ::2, ::4].clone(), logits[:, :, ::4, ::4, ::8].clone()]
    expected = (
        2 * dice_cross_entropy(heads[0], target, annotated)
        + dice_cross_entropy(heads[1], target[:, ::2, ::2, ::4], annotated)
    ) / 3
    torch.testing.assert_close(DiceCrossEntropy()(heads, target, annotated), expected)
    torch.testing.assert_close(
        DiceCrossEntropy()(logits, target, annotated), dice_cross_entropy(logits, target, annotated)
    )


def test_class_balance_is_pytorchs_weighted_cross_entropy():
    logits, target, annotated = problem(seed=3, side=6)
    counts = torch.bincount(target.flatten(), minlength=5).float()
    weight = (target.numel() / counts).sqrt()
    plain = dice_cross_entropy(logits, target, annotated)
    balanced = dice_cross_entropy(logits, target, annotated, class_balance=0.5)
    difference = F.cross_entropy(logits, target, weight=weight) - F.cross_entropy(logits, target)
    torch.testing.assert_close(balanced - plain, difference, rtol=1e-4, atol=1e-6)


def test_class_balance_keeps_unannotated_organs_and_background_one_class():
    logits, target, annotated = problem(seed=4)
    annotated[:, 3] = False
    moved = move_between_background_and(3, logits, 0, 1.5)
    losses = [dice_cross_entropy(x, target, annotated, class_balance=0.5) for x in (logits, moved)]
    torch.testing.assert_close(losses[0], losses[1])
