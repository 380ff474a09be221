"""Tables that are as high as what they hold, so that only the panel scrolls, and marks beside their text."""

import qt


def fitHeight(table, most=None) -> None:
    """Make the table (QTableWidget) as high as its rows; at most that many of them, where most is given."""
    header = table.horizontalHeader()
    rows = table.verticalHeader()
    count = table.rowCount if most is None else min(table.rowCount, most)
    height = sum(rows.sectionSize(row) for row in range(count))
    top = header.sizeHint.height() if not header.isHidden() else 0
    wide = header.length() > table.viewport().width and table.horizontalScrollBarPolicy != qt.Qt.ScrollBarAlwaysOff
    bar = table.horizontalScrollBar().sizeHint.height() if wide else 0
    table.setFixedHeight(top + height + bar + 2 * table.frameWidth)


def fill(table, header, rows) -> None:
    """Write texts into the table (QTableWidget): the header, and rows of cells."""
    table.setColumnCount(len(header))
    table.setHorizontalHeaderLabels(header)
    table.setRowCount(len(rows))
    for row, cells in enumerate(rows):
        for column, text in enumerate(cells):
            table.setItem(row, column, qt.QTableWidgetItem(text))


def bar(share, color, width):
    """A brush that fills the left part of a cell of that width, share from 0 to 1; the cell keeps its text."""
    gradient = qt.QLinearGradient(0, 0, max(width, 1), 0)  # Qt begins it at the left edge of the cell
    end = min(max(float(share), 0.001), 0.998)
    gradient.setColorAt(0, color)
    gradient.setColorAt(end, color)
    gradient.setColorAt(end + 0.001, qt.QColor(0, 0, 0, 0))
    return qt.QBrush(gradient)
