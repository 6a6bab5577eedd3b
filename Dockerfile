# syntax=docker/dockerfile:1
# A static program, the list of authorities, and nothing else.
#
#   docker build -t sluicegate:0.1.0 .
#   docker buildx build --platform linux/amd64,linux/arm64 -t REGISTRY/sluicegate:0.1.0 --push .
#
# Each platform is built on its own kind of machine or under emulation, which is slow; there is no cross compiler here.
FROM rust:1.95-slim-bookworm AS build
# ca-certificates: for endpoints over TLS without authorities of their own. libcap2-bin: setcap, below.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev libcap2-bin \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ARG TARGETARCH
# Names of functions stay, for backtraces; numbers of lines would be three quarters of the image. With --target, what runs
# while building (build scripts, macros) is not linked statically, which it could not be.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,id=target-${TARGETARCH},target=/src/target \
    target="$(rustc -vV | sed -n 's/^host: //p')" \
    && CARGO_PROFILE_RELEASE_STRIP=debuginfo RUSTFLAGS="-C target-feature=+crt-static" \
       cargo build --release --locked -p sluicegate --target "$target" \
    && install -D "target/$target/release/sluicegate" /image/usr/local/bin/sluicegate
# Ports below 1024, and addresses on interfaces (--announce), without root, for containers that are granted NET_BIND_SERVICE,
# or NET_ADMIN and NET_RAW. Permitted and not effective: with the
# latter, the program would not even start in the others.
RUN setcap cap_net_admin,cap_net_bind_service,cap_net_raw=p /image/usr/local/bin/sluicegate \
    && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
    && printf 'sluicegate:x:65532:65532::/:/sbin/nologin\n' > /image/etc/passwd \
    && install -d -m 700 -o 65532 -g 65532 /image/var/lib/sluicegate

FROM scratch
LABEL org.opencontainers.image.title="sluicegate" \
      org.opencontainers.image.description="Ingress controller, load balancer and reverse proxy" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image/ /
# By number, so that runAsNonRoot can be checked.
USER 65532:65532
# Ports that need no rights. The root file system may be read-only: only --state-dir is written to, if it is given.
EXPOSE 8080 8443 9901
ENTRYPOINT ["/usr/local/bin/sluicegate"]
# Without a cluster: mount a folder, so that its changes are seen. Health is asked for by whoever runs it, at /readyz.
CMD ["run", "--config", "/etc/sluicegate", "--http", "0.0.0.0:8080", "--https", "0.0.0.0:8443", "--admin", "0.0.0.0:9901"]
