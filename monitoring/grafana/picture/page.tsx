// The page in the picture: every panel of the dashboard in its place, drawn by Grafana's own components.
import * as React from "react";
import { createRoot } from "react-dom/client";
import {
    createTheme, DataFrame, dateTime, getFieldDisplayValues, standardTransformers, standardTransformersRegistry, ThemeContext, TimeRange,
} from "@grafana/data";
import { BarGauge, BigValue, GlobalStyles, PanelChrome, Table, TimeSeries, UPlotConfigBuilder } from "@grafana/ui";
import { frames, isEmpty, Panel, Recorded } from "./frames";

const WIDTH = 1680, CELL = 30, GAP = 8;
const theme = createTheme({ colors: { mode: "dark" } });

standardTransformersRegistry.setInit(() => [standardTransformers.mergeTransformer, standardTransformers.organizeFieldsTransformer]
    .map((transformation) => ({ id: transformation.id, name: transformation.name, transformation, editor: () => null } as any)));

function Restarts({ config, times }: { config: UPlotConfigBuilder; times: number[] }) {
    React.useLayoutEffect(() => config.addHook("draw", (plot) => {
        const { ctx, bbox } = plot;
        ctx.save();
        ctx.strokeStyle = ctx.fillStyle = theme.visualization.getColorByName("blue");
        ctx.lineWidth = 2;
        ctx.setLineDash([6, 6]);
        for (const time of times) {
            const x = plot.valToPos(time, "x", true);
            ctx.beginPath();
            ctx.moveTo(x, bbox.top);
            ctx.lineTo(x, bbox.top + bbox.height);
            ctx.stroke();
            ctx.beginPath();
            ctx.moveTo(x - 8, bbox.top + bbox.height + 10);
            ctx.lineTo(x + 8, bbox.top + bbox.height + 10);
            ctx.lineTo(x, bbox.top + bbox.height);
            ctx.fill();
        }
        ctx.restore();
    }), [config]);
    return null;
}

type Drawing = { panel: Panel; data: DataFrame[]; range: TimeRange; restarts: number[]; width: number; height: number };

function values({ panel, data }: Drawing) {
    return getFieldDisplayValues({
        fieldConfig: panel.fieldConfig, reduceOptions: panel.options.reduceOptions, data, theme, timeZone: "utc",
        replaceVariables: (text) => text, sparkline: panel.options.graphMode === "area",
    });
}

function Drawn(drawing: Drawing) {
    const { panel, data, range, restarts, width, height } = drawing;
    const { options } = panel;
    if (panel.type === "timeseries") {
        return (
            <TimeSeries frames={data} timeRange={range} timeZone="utc" width={width} height={height} legend={options.legend} options={options}>
                {(config: UPlotConfigBuilder) => <Restarts config={config} times={restarts} />}
            </TimeSeries>
        );
    }
    if (panel.type === "table") {
        return <Table data={data[0]} width={width} height={height} initialSortBy={options.sortBy} cellHeight={options.cellHeight} />;
    }
    const shown = values(drawing);
    if (panel.type === "bargauge") {
        const each = Math.min(options.maxVizHeight, height / shown.length - 8);
        return (
            <div style={{ display: "flex", flexDirection: "column", gap: 8 }}>
                {shown.map(({ display, field }, index) => (
                    <BarGauge key={index} value={display} field={field} theme={theme} width={width} height={each} orientation={options.orientation}
                        displayMode={options.displayMode} namePlacement={options.namePlacement} valueDisplayMode={options.valueMode}
                        showUnfilled={options.showUnfilled} alignmentFactors={{ title: "cache-1", text: "00.0 c/s" } as any} />
                ))}
            </div>
        );
    }
    const { display, sparkline } = shown[0];
    return (
        <BigValue value={options.textMode === "name" ? { ...display } : { ...display, title: "" }} sparkline={sparkline} theme={theme}
            width={width} height={height} colorMode={options.colorMode} graphMode={options.graphMode} justifyMode={options.justifyMode}
            textMode={options.textMode} text={options.text} />
    );
}

function Dashboard({ dashboard, recorded, data }: { dashboard: { title: string; panels: Panel[] }; recorded: Recorded; data: Map<number, DataFrame[]> }) {
    const column = (WIDTH + GAP) / 24;
    const [from, to] = [dateTime(recorded.from * 1000), dateTime(recorded.to * 1000)];
    const range = { from, to, raw: { from, to } };
    const marks = recorded.answers.find((answer) => answer.panel === 0)!.result.flatMap((series) => series.values ?? []).map(([time]) => time * 1000);
    // One mark for a change that shows at several steps in a row.
    const restarts = marks.filter((time, index) => index === 0 || time - marks[index - 1] > 120_000);
    const bottom = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
    return (
        <div id="dashboard" style={{ position: "relative", width: WIDTH, height: bottom * (CELL + GAP), background: theme.colors.background.canvas }}>
            {dashboard.panels.map((panel) => {
                const { x, y, w, h } = panel.gridPos;
                const size = { width: w * column - GAP, height: h * (CELL + GAP) - GAP };
                const place = { position: "absolute" as const, left: x * column, top: y * (CELL + GAP), ...size };
                if (panel.type === "row") {
                    return <h3 key={panel.id} style={{ ...place, margin: 0, paddingTop: 4 }}>⌄ {panel.title.replace("$instance", recorded.host)}</h3>;
                }
                const found = data.get(panel.id)!;
                return (
                    <div key={panel.id} style={place} data-panel={panel.title} data-empty={isEmpty(found)}>
                        <PanelChrome {...size} title={panel.title} description={panel.description}>
                            {(width, height) => (
                                <Drawn panel={panel} data={found} range={range} restarts={restarts} width={width} height={height} />
                            )}
                        </PanelChrome>
                    </div>
                );
            })}
        </div>
    );
}

async function draw() {
    const read = async (name: string) => (await fetch(name)).json();
    const [dashboard, recorded] = await Promise.all([read("dashboard.json"), read("recorded.json")]);
    const drawn = dashboard.panels.filter((panel: Panel) => panel.type !== "row");
    const data = new Map<number, DataFrame[]>();
    for (const panel of drawn) data.set(panel.id, await frames(panel, recorded, theme));
    createRoot(document.getElementById("root")!).render(
        <ThemeContext.Provider value={theme}>
            <GlobalStyles />
            <Dashboard dashboard={dashboard} recorded={recorded} data={data} />
        </ThemeContext.Provider>,
    );
}

void draw();
