// The answers of Prometheus as Grafana's data frames, with the units, colours and names of the dashboard.
import {
    applyFieldOverrides, DataFrame, dataLinksOverrideProcessor, displayNameOverrideProcessor, Field, FieldType, GrafanaTheme2,
    identityOverrideProcessor, numberOverrideProcessor, Registry, thresholdsOverrideProcessor, transformDataFrame, toDataFrame,
    unitOverrideProcessor, valueMappingsOverrideProcessor,
} from "@grafana/data";
import { firstValueFrom } from "rxjs";

type Series = { metric: Record<string, string>; values?: [number, string][]; value?: [number, string] };
export type Answer = { panel: number; query: string; result: Series[] };
export type Recorded = { from: number; to: number; host: string; step: number; answers: Answer[] };
export type Target = { refId: string; legendFormat: string; format: string };
export type Panel = {
    id: number; type: string; title: string; description: string; gridPos: { x: number; y: number; w: number; h: number };
    targets?: Target[]; fieldConfig: any; options: any; transformations?: any[];
};

const STANDARD: [string, any][] = [
    ["unit", unitOverrideProcessor], ["min", numberOverrideProcessor], ["max", numberOverrideProcessor],
    ["decimals", numberOverrideProcessor], ["displayName", displayNameOverrideProcessor], ["color", identityOverrideProcessor],
    ["thresholds", thresholdsOverrideProcessor], ["mappings", valueMappingsOverrideProcessor], ["links", dataLinksOverrideProcessor],
];
const CUSTOM = [
    "drawStyle", "lineInterpolation", "lineWidth", "fillOpacity", "fillBelowTo", "gradientMode", "showPoints", "spanNulls", "stacking",
    "scaleDistribution", "axisPlacement", "axisSoftMax", "align", "cellOptions", "inspect", "filterable", "width",
];
const property = (id: string, path: string, isCustom: boolean, process: any) =>
    ({ id, path, isCustom, process, name: id, editor: () => null, override: () => null, shouldApply: () => true });
// Grafana's application registers these with their editors; there are no editors here.
const properties = new Registry<any>(() => [
    ...STANDARD.map(([id, process]) => property(id, id, false, process)),
    ...CUSTOM.map((id) => property(`custom.${id}`, id, true, identityOverrideProcessor)),
]);

function named(series: Series, legend: string, host: string): string {
    if (legend !== "__auto") {
        return legend.replace(/{{\s*(\w+)\s*}}/g, (_, label) => series.metric[label] ?? "").replace("$instance", host);
    }
    return Object.entries(series.metric).map(([label, value]) => `${label}="${value}"`).join(", ") || "Value";
}

function overTime(recorded: Recorded, answer: Answer, target: Target): DataFrame[] {
    return answer.result.map((series) => {
        const samples = series.values ?? [series.value!];
        const name = named(series, target.legendFormat, recorded.host);
        // A step without a sample is a gap, not a line from its left to its right.
        const at = new Map(samples.map(([time, value]) => [Math.round(time * 1000), Number(value)]));
        const times = series.values ? grid(recorded) : [...at.keys()];
        return toDataFrame({
            refId: answer.query,
            fields: [
                { name: "Time", type: FieldType.time, values: times, config: {} },
                { name: "Value", type: FieldType.number, labels: series.metric, values: times.map((time) => at.get(time) ?? null),
                  config: { displayNameFromDS: name } },
            ],
        });
    });
}

function grid(recorded: Recorded): number[] {
    const times: number[] = [];
    for (let time = recorded.from; time <= recorded.to; time += recorded.step) times.push(Math.round(time * 1000));
    return times;
}

function asTable(answer: Answer, several: boolean): DataFrame {
    const labels = [...new Set(answer.result.flatMap((series) => Object.keys(series.metric)))];
    const column = (name: string, type: FieldType, values: unknown[]) => ({ name, type, values, config: {} });
    return toDataFrame({
        refId: answer.query,
        fields: [
            column("Time", FieldType.time, answer.result.map((series) => Math.round(series.value![0] * 1000))),
            ...labels.map((label) => column(label, FieldType.string, answer.result.map((series) => series.metric[label] ?? ""))),
            column(several ? `Value #${answer.query}` : "Value", FieldType.number, answer.result.map((series) => Number(series.value![1]))),
        ],
    });
}

export async function frames(panel: Panel, recorded: Recorded, theme: GrafanaTheme2): Promise<DataFrame[]> {
    const targets = panel.targets ?? [];
    const found = targets.flatMap((target) => {
        const answer = recorded.answers.find((each) => each.panel === panel.id && each.query === target.refId)!;
        return target.format === "table" ? [asTable(answer, targets.length > 1)] : overTime(recorded, answer, target);
    });
    const transformed = await firstValueFrom(transformDataFrame(panel.transformations ?? [], found));
    return applyFieldOverrides({
        data: transformed, fieldConfig: panel.fieldConfig, fieldConfigRegistry: properties, theme, timeZone: "utc",
        replaceVariables: (text) => text,
    });
}

export const isEmpty = (all: DataFrame[]): boolean =>
    !all.some((frame) => frame.fields.some((field: Field) => field.type === FieldType.number && field.values.some((value) => value != null)));
