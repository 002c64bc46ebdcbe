"""Random numbers of generated data: fixed by their key, wherever they are drawn."""

from pentad.core.draws import Draws


def test_draws_repeat_by_key_and_keep_their_range():
    values = [Draws(1, 2).uniform(-3, 5), Draws(1, 2).uniform(-3, 5), Draws(2, 1).uniform(-3, 5)]
    assert values[0] == values[1] != values[2]
    assert all(-3 <= value < 5 for value in values)


def test_the_numbers_are_those_recorded_once():
    draws = Draws(7, 3)
    assert [draws.integer(1000) for _ in range(4)] == [670, 161, 542, 633]
    assert draws.grid(2, 2).shape == (2, 2)


def test_a_grid_fills_0_to_1_and_numbers_their_range():
    grid = Draws(5).grid(50, 40)
    assert 0 <= grid.min() < 0.01
    assert 0.99 < grid.max() < 1
    assert abs(grid.mean() - 0.5) < 0.02
    drawn = [Draws(number).uniform(10.0, 12.0) for number in range(200)]
    assert 10.0 <= min(drawn) < 10.2
    assert 11.8 < max(drawn) < 12.0
