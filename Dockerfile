# The exporter on a base with Python. The build runs nothing in the base. "The image" in compose/README.md describes
# the bases and arguments. BuildKit, the classic builder and buildah can all use this file.

# Byte code works with one version of Python only, so base and builder have the same.
ARG PYTHON=3.13
ARG BASE=python:${PYTHON}-alpine

# This stage has a shell and pip. Its result is the same on every architecture.
ARG BUILDER=python:${PYTHON}-alpine

# The classic builder does not set BUILDPLATFORM. It builds for its own platform with `linux`.
FROM --platform=${BUILDPLATFORM:-linux} ${BUILDER} AS builder
WORKDIR /build

# The package index of pip, to use a mirror. pip verifies the packages by the hashes in the lock.
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

# Only wheels without compiled parts, because every architecture gets the same. The build tools are installed into an
# environment of their own, because pip can't replace packages that the builder's distribution installed.
COPY requirements.lock ./
RUN python3 -m pip download --require-hashes --no-deps --requirement requirements.lock --dest wheels \
        --only-binary :all: --platform any --implementation py --abi none \
    && python3 -m venv --without-pip tools \
    && python3 -m pip --python tools/bin/python install --no-index --no-deps wheels/*.whl

COPY pyproject.toml README.md LICENSE-APACHE LICENSE-MIT ./
COPY docker_prom_exporter docker_prom_exporter

# The lock also has the build tools. pip resolves which of its packages the exporter needs.
RUN tools/bin/python -m hatchling build --target wheel --directory wheels \
    && python3 -m pip install --no-index --find-links wheels --no-compile --target packages docker-prom-exporter \
    && rm -r packages/bin packages/*/tests

# The tool's own validation needs compiled packages, so the tests validate the SBOM instead.
RUN PYTHONPATH=packages tools/bin/python -m cyclonedx_py environment -S --output-reproducible --no-validate \
        --output-file sbom.cdx.json "$(command -v python3)"

# Set fixed modes and times, so that the image does not depend on the context or the day. The time is not
# SOURCE_DATE_EPOCH: BuildKit's cache ignores times and could return those of an older build. With unchecked-hash,
# Python does not compare them with the times in the byte code.
RUN mkdir -p image/opt/docker-prom-exporter \
    && mv packages sbom.cdx.json image/opt/docker-prom-exporter \
    && python3 -m compileall -q --invalidation-mode unchecked-hash -s image -p / image/opt \
    && chmod -R u=rwX,go=rX image \
    && find image -exec touch -d @0 {} +

# Without a platform here, buildah before 1.43 would use the builder's platform for this stage, too. The classic builder
# sets neither variable and builds for its own platform.
FROM --platform=${TARGETPLATFORM:-${BUILDPLATFORM:-linux}} ${BASE}
COPY --from=builder /build/image /

# PYTHONSAFEPATH: Python imports no module from the working directory, which may be any mount.
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
