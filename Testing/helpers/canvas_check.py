"""Where texts lie on a picture of ``figures.canvas``."""


def check_texts(canvas) -> None:
    """None leaves the picture, and none lies on another."""
    for number, text in enumerate(canvas.texts):
        assert 0 <= text.left and text.right <= canvas.width, text
        assert 0 <= text.top and text.bottom <= canvas.height, text
        for other in canvas.texts[number + 1 :]:
            apart = text.right <= other.left or other.right <= text.left
            assert apart or text.bottom <= other.top or other.bottom <= text.top, (text, other)
