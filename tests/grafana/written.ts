// The dashboard's type, put together from Grafana's own. A test appends the JSON itself, so that tsc looks at every value of it and at
// every name that Grafana does not know.
import type { AnnotationQuery, Dashboard, FieldConfig, GraphFieldConfig, Panel, RowPanel, TableFieldOptions } from "@grafana/schema";
import type { Options as BarGauge } from "./node_modules/@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen";
import type { Options as Stat } from "./node_modules/@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type { Options as Table } from "./node_modules/@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type { Options as TimeSeries } from "./node_modules/@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// JSON has the values of enums, not their names.
type Plain<T> = unknown extends T
    ? T
    : T extends string
      ? `${T}`
      : T extends (infer Item)[]
        ? Plain<Item>[]
        : T extends object
          ? { [Key in keyof T]: Plain<T[Key]> }
          : T;

// The schema leaves the options of a panel open; each kind of panel has its own.
type Kind<Name extends string, Options, Custom> = Omit<Panel, "type" | "options" | "fieldConfig"> & {
    type: Name;
    title: string;
    description: string;
    options: Options;
    fieldConfig: { defaults: Omit<FieldConfig, "custom"> & { custom: Custom; unit: string }; overrides: NonNullable<Panel["fieldConfig"]>["overrides"] };
};
type AnyPanel =
    | RowPanel
    | Kind<"bargauge", BarGauge, Record<string, never>>
    | Kind<"stat", Stat, Record<string, never>>
    | Kind<"table", Table, Partial<TableFieldOptions>>
    | Kind<"timeseries", TimeSeries, GraphFieldConfig>;

// What Prometheus's data source knows of an annotation is not in the schema.
type Annotation = AnnotationQuery & { expr: string; step: string; titleFormat: string; textFormat: string; tagKeys: string };

export type Written = Plain<
    Omit<Dashboard, "annotations" | "panels"> & { annotations: { list: Annotation[] }; panels: AnyPanel[] }
>;
