# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p sluicegate \
    && cp target/release/sluicegate /sluicegate

# The C library, and nothing else: no shell, no package manager. Runs as user 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /sluicegate /usr/local/bin/sluicegate
# Ports that need no rights. Mount the configuration as a folder, so that its changes are seen.
EXPOSE 8080 8443 9901
ENTRYPOINT ["/usr/local/bin/sluicegate"]
CMD ["run", "--config", "/etc/sluicegate", "--http", "0.0.0.0:8080", "--admin", "0.0.0.0:9901"]
