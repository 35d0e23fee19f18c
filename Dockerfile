# The exporter on a base that has Python and that nothing is run in: "The image" in README.md tells of the
# bases and arguments. BuildKit, the classic builder and buildah all take this file.

# Byte code is for one version of Python: the same in the base and in the builder.
ARG PYTHON=3.13
ARG BASE=python:${PYTHON}-alpine

# The parts are put together here, with a shell and pip; they are the same bits on every architecture.
ARG BUILDER=python:${PYTHON}-alpine

# The classic builder does not know its own platform, and takes that for `linux`.
FROM --platform=${BUILDPLATFORM:-linux} ${BUILDER} AS builder
WORKDIR /build

# Where pip finds its packages, for a mirror; the hashes of the lock tell whether they are the right ones.
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

# Only wheels without compiled parts, as every architecture gets these. The tools among them go into an
# environment of their own: pip can't replace a package that the builder's distribution installed.
COPY requirements.lock ./
RUN python3 -m pip download --require-hashes --no-deps --requirement requirements.lock --dest wheels \
        --only-binary :all: --platform any --implementation py --abi none \
    && python3 -m venv --without-pip tools \
    && python3 -m pip --python tools/bin/python install --no-index --no-deps wheels/*.whl

COPY pyproject.toml README.md LICENSE-APACHE LICENSE-MIT ./
COPY docker_prom_exporter docker_prom_exporter

# The lock holds the tools used here too; what the exporter itself needs of it, pip knows.
RUN tools/bin/python -m hatchling build --target wheel --directory wheels \
    && python3 -m pip install --no-index --find-links wheels --no-compile --target packages docker-prom-exporter \
    && rm -r packages/bin packages/*/tests

# The tool's own check of what it wrote takes compiled packages; the tests make that check.
RUN PYTHONPATH=packages tools/bin/python -m cyclonedx_py environment -S --output-reproducible --no-validate \
        --output-file sbom.cdx.json "$(command -v python3)"

# Modes and times are not those of the context or the day, nor SOURCE_DATE_EPOCH, as BuildKit's cache is blind to
# times: an older build's would come back. Python is not to compare them with those in its byte code.
RUN mkdir -p image/opt/docker-prom-exporter \
    && mv packages sbom.cdx.json image/opt/docker-prom-exporter \
    && python3 -m compileall -q --invalidation-mode unchecked-hash -s image -p / image/opt \
    && chmod -R u=rwX,go=rX image \
    && find image -exec touch -d @0 {} +

# Without a platform here, buildah before 1.43 would take the builder's for this stage, too. The classic builder
# knows neither: it builds for its own.
FROM --platform=${TARGETPLATFORM:-${BUILDPLATFORM:-linux}} ${BASE}
COPY --from=builder /build/image /

# PYTHONSAFEPATH: no module comes from the working directory, which may be any mount.
ENV PYTHONPATH=/opt/docker-prom-exporter/packages PYTHONSAFEPATH=1 LISTEN_ADDR=0.0.0.0
USER 65534:65534
EXPOSE 9000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python3", "-m", "docker_prom_exporter", "healthcheck"]
ENTRYPOINT ["python3", "-m", "docker_prom_exporter"]
CMD []

ARG BASE
ARG BUILDER
ARG CREATED=
ARG REVISION=
ARG SOURCE=
ARG VERSION=1.0.0
LABEL org.opencontainers.image.title="docker-prom-exporter" \
    org.opencontainers.image.description="Tells Prometheus whether Docker is up and how each container's health is" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.source="$SOURCE" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.created="$CREATED" \
    org.opencontainers.image.base.name="$BASE" \
    docker-prom-exporter.builder="$BUILDER"
