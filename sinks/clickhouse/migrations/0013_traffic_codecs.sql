-- Traffic over NVLink and PCIe is nearly half of a GPU sample's bytes: FPC saves 2 to 4 % of it (sinks/clickhouse/README.md).
-- What is there already keeps its codec until it is merged.

ALTER TABLE ${database}.gpu_samples
    MODIFY COLUMN nvlink_tx_bytes_per_second CODEC(FPC(12), ZSTD(1)),
    MODIFY COLUMN nvlink_rx_bytes_per_second CODEC(FPC(12), ZSTD(1)),
    MODIFY COLUMN pcie_tx_bytes_per_second CODEC(FPC(12), ZSTD(1)),
    MODIFY COLUMN pcie_rx_bytes_per_second CODEC(FPC(12), ZSTD(1));
