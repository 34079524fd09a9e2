"""The instruments: a room for each thing that people do. docs/ARCHITECTURE.md is the map."""
