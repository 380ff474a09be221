"""What must hold for every picture, measured as it is drawn."""

from __future__ import annotations

from matplotlib.text import Text


def shown_texts(figure) -> list[tuple[str, object]]:
    """(text, its box in pixels) of every text that is drawn."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    beyond = {
        tick.label1
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if not _in_view(axis, tick)
    }
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text not in beyond]


def _in_view(axis, tick) -> bool:
    low, high = sorted(axis.get_view_interval())
    return low <= tick.get_loc() <= high


def check_figure(figure) -> None:
    """No text leaves the canvas or runs through another one, and no legend lies over the axes' data."""
    texts, (width, height) = shown_texts(figure), figure.canvas.get_width_height()
    for text, box in texts:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, f"leaves the canvas: {text}"
    for number, (text, box) in enumerate(texts):
        for other, other_box in texts[number + 1 :]:
            # Boxes have the height of the tallest letters; so much of them may touch.
            apart = box.x1 - 2 <= other_box.x0 or other_box.x1 - 2 <= box.x0
            assert apart or box.y1 - 3 <= other_box.y0 or other_box.y1 - 3 <= box.y0, f"'{text}' runs into '{other}'"
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]:
        box = legend.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert all(not box.overlaps(axes.get_window_extent()) for axes in figure.axes), "the legend hides data"
