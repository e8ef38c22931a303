"""A dashboard's table as the JSON that Grafana provisions, by way of Grafana's own builders.

Import it where it is used: its library takes a third of a second.
"""

from __future__ import annotations

import itertools
import json

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as queries

from components.observability.dashboards import NAMESPACES, Dashboard, Kind, Panel, Query

# the variable, so that the JSON is right in any Grafana that has a Prometheus
_DATASOURCE = common.DataSourceRef(type_val="prometheus", uid="$datasource")

_Builder = stat.Panel | table.Panel | timeseries.Panel


def render(dashboard: Dashboard) -> str:
    """A dashboard as JSON, the same text for the same table.

    https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
    """
    page = (
        builders.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags(["istio"])
        .readonly()
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(
            builders.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
        .with_variable(
            builders.QueryVariable("namespace")
            .label("Namespace")
            .datasource(_DATASOURCE)
            .query(NAMESPACES)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.ALPHABETICAL_ASC)
            .multi(True)  # noqa: FBT003 - the builder's own signature
            .include_all(True)  # noqa: FBT003 - same
            .all_value(".*")
            .current(models.VariableOption(text="All", value="$__all"))
        )
    )
    number = itertools.count(1)
    for section in dashboard.sections:
        page.with_row(builders.Row(section.title).id(next(number)))
        for panel in section.panels:
            page.with_panel(_panel(panel).id(next(number)))
    return json.dumps(page.build(), cls=JSONEncoder, indent=1, sort_keys=True)


def _panel(panel: Panel) -> _Builder:
    shown: _Builder
    match panel.kind:
        case Kind.STAT:
            shown = (
                stat.Panel()
                .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
                .graph_mode(common.BigValueGraphMode.NONE)
                .color_mode(
                    common.BigValueColorMode.BACKGROUND
                    if panel.whole_is_good
                    else common.BigValueColorMode.NONE
                )
            )
        case Kind.TIME_SERIES:
            shown = (
                timeseries.Panel()
                .fill_opacity(10)
                .tooltip(
                    common_builders.VizTooltipOptions()
                    .mode(common.TooltipDisplayMode.MULTI)
                    .sort(common.SortOrder.DESCENDING)
                )
                .legend(
                    common_builders.VizLegendOptions()
                    .show_legend(True)  # noqa: FBT003 - the builder's own signature
                    .display_mode(common.LegendDisplayMode.LIST)
                    .placement(common.LegendPlacement.BOTTOM)
                )
            )
        case Kind.TABLE:
            shown = _table(panel)
    for index, query in enumerate(panel.queries):
        shown.with_target(_target(panel, index, query))
    shown.title(panel.title).description(panel.description).datasource(_DATASOURCE)
    shown.span(panel.width).height(panel.height).unit(panel.unit).no_value(panel.empty)
    if panel.unit == "percentunit":
        shown.min(0).max(1)
    if panel.whole_is_good:
        below, whole = (
            models.Threshold(value=None, color="red"),
            models.Threshold(value=1, color="green"),
        )
        shown.thresholds(
            builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps([below, whole])
        )
    return shown


def _target(panel: Panel, index: int, query: Query) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).ref_id(_ref(index)).legend_format(query.title)
    target.editor_mode(queries.QueryEditorMode.CODE).datasource(_DATASOURCE)
    if panel.kind is Kind.TIME_SERIES:
        return target.range()
    target.instant()
    return target.format(queries.PromQueryFormat.TABLE) if panel.kind is Kind.TABLE else target


def _ref(index: int) -> str:
    return chr(ord("A") + index)


def _table(panel: Panel) -> table.Panel:
    """A table whose columns are the labels, then a figure for each query."""
    # Grafana calls the figures of several merged queries "Value #A" and so on
    several = len(panel.queries) > 1
    figures = [f"Value #{_ref(i)}" if several else "Value" for i in range(len(panel.queries))]
    columns = [*panel.labels, *figures]
    titles = [*map(_column, panel.labels), *(query.title for query in panel.queries)]
    shown = (
        table.Panel()
        .with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            models.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {"Time": True},
                    "indexByName": {name: place for place, name in enumerate(columns)},
                    "renameByName": dict(zip(columns, titles, strict=True)),
                },
            )
        )
    )
    for query in panel.queries:
        if query.unit is not None:
            shown.override_by_name(
                query.title,
                [
                    models.DynamicConfigValue(id_val="unit", value=query.unit),
                    models.DynamicConfigValue(
                        id_val="custom.cellOptions", value={"type": "color-background"}
                    ),
                ],
            )
    worst_first = panel.whole_is_good
    return shown.sort_by(
        [
            common_builders.TableSortByFieldState()
            .display_name(panel.queries[-1 if worst_first else 0].title)
            .desc(not worst_first)
        ]
    )


def _column(label: str) -> str:
    """A label as a person reads it: source_workload_namespace is "From workload namespace"."""
    for end, word in (("source_", "from "), ("destination_", "to ")):
        label = label.replace(end, word)
    return label.replace("_", " ").capitalize()
