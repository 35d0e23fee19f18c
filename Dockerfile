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

# The lock also has the build tools. pip resolves which of its packages the exporter needs. The programs of packages name
# the builder's Python, so they are removed, and with them their hashes in the lists of installed files. So are the
# packages' tests, and the part of urllib3 for Python in a browser.
RUN tools/bin/python -m hatchling build --target wheel --directory wheels \
    && python3 -m pip install --no-index --find-links wheels --no-compile --target packages docker-prom-exporter \
    && rm -rf packages/bin packages/*/tests packages/urllib3/contrib/emscripten \
    && sed -i '/^..\/..\/bin\//d' packages/*.dist-info/RECORD

# The tool's own validation needs compiled packages, so the tests validate the SBOM instead.
RUN PYTHONPATH=packages tools/bin/python -m cyclonedx_py environment -S --output-reproducible --no-validate \
        --output-file sbom.cdx.json "$(command -v python3)"

# The command docker-prom-exporter. A `#!` line is one path, but the bases have Python in different folders, and some
# have no shell. So there is one script for each folder of Python, and PATH has a folder with a link to each. The links
# lead through the standard library of that Python: in a base without it the link is broken, and a lookup passes over it.
# The script for a shell is for other bases. It also has the path of the Rust exporter, for `entrypoint:` in Compose files.
RUN mkdir -p image/app image/opt/docker-prom-exporter/bin/sh && cd image/opt/docker-prom-exporter/bin \
    && version="$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')" \
    && for prefix in usr/local usr opt/python; do \
        mkdir -p "$prefix" \
        && printf '#!/%s/bin/python3\nimport sys\nfrom docker_prom_exporter.cli import main\nsys.exit(main())\n' "$prefix" \
            > "$prefix/start" \
        && ln -s "/$prefix/lib/python$version/encodings/../../../../../opt/docker-prom-exporter/bin/$prefix/start" \
            "$prefix/docker-prom-exporter" || exit; \
    done \
    && printf '#!/bin/sh\nexec python3 -m docker_prom_exporter "$@"\n' > sh/docker-prom-exporter \
    && ln -s /opt/docker-prom-exporter/bin/sh/docker-prom-exporter /build/image/app/docker-prometheus-exporter \
    && chmod +x */start */*/start sh/docker-prom-exporter

# Set fixed modes and times, so that the image does not depend on the context or the day. The time is not
# SOURCE_DATE_EPOCH: BuildKit's cache ignores times and could return those of an older build. With unchecked-hash,
# Python does not compare them with the times in the byte code.
RUN mv packages sbom.cdx.json image/opt/docker-prom-exporter \
    && python3 -m compileall -q --invalidation-mode unchecked-hash -s image -p / image/opt \
    && chmod -R u=rwX,go=rX image \
    && find image -exec touch -h -d @0 {} +

# Without a platform here, buildah before 1.43 would use the builder's platform for this stage, too. The classic builder
# sets neither variable and builds for its own platform.
FROM --platform=${TARGETPLATFORM:-${BUILDPLATFORM:-linux}} ${BASE}
COPY --from=builder /build/image /

# PYTHONSAFEPATH: Python imports no module from the working directory, which may be any mount.
ENV PYTHONPATH=/opt/docker-prom-exporter/packages PYTHONSAFEPATH=1 LISTEN_ADDR=0.0.0.0
# The engine's default is written out because a base may set no PATH.
ENV PATH=${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}:/opt/docker-prom-exporter/bin/usr/local:/opt/docker-prom-exporter/bin/usr:/opt/docker-prom-exporter/bin/opt/python:/opt/docker-prom-exporter/bin/sh
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
    org.opencontainers.image.description="Tells Prometheus whether Docker is up, and the health of each container" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.source="$SOURCE" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.created="$CREATED" \
    org.opencontainers.image.base.name="$BASE" \
    docker-prom-exporter.builder="$BUILDER"
