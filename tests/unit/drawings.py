"""What a drawing shows, read from the axes that it is drawn into."""

from matplotlib.figure import Figure

from ms_bert.tasks.pictures import Drawing


def axes_of(drawing: Drawing):
    axes = Figure().subplots()
    drawing(axes)
    return axes


def bars(drawing: Drawing) -> dict[str, list[float]]:
    """The lengths of the bars beside each name, from the top; those that are not there are left out."""
    axes = axes_of(drawing)
    names = {place: label.get_text() for place, label in zip(axes.get_yticks(), axes.get_yticklabels())}
    found = {name: [] for name in names.values()}
    for bar in sorted(axes.patches, key=lambda bar: bar.get_y()):
        found[names[round(bar.get_y() + bar.get_height() / 2)]].append(bar.get_width())
    return found


def confusion(drawing: Drawing) -> dict[tuple[str, str], str]:
    """The number that stands for each (label, prediction)."""
    axes = axes_of(drawing)
    columns, rows = (
        [label.get_text() for label in labels()] for labels in (axes.get_xticklabels, axes.get_yticklabels)
    )
    found = {text.get_position(): text.get_text() for text in axes.texts}
    return {(rows[y], columns[x]): number for (x, y), number in found.items()}
