# One image for every role: the SuperLink, a site, the coordinator's commands, and any other command of amos-fl.
#
#   docker build -t amos-fl .
#   docker build -t amos-fl --build-arg TORCH_BACKEND=cu128 .                  PyTorch for CUDA 12.8 instead of CPUs
#   docker build -t amos-fl --build-arg PIP_ARGS='--index-url ...' .           everything from an index of your own
#
# No key and no scan is in it, and what it writes goes into volumes and /tmp alone. docs/operations.md says more.
ARG PYTHON_IMAGE=python:3.11-slim

# The names of what amos-fl needs, apart, so that another change of pyproject.toml installs nothing anew.
FROM ${PYTHON_IMAGE} AS names
COPY pyproject.toml /
# The extra `dicom` is in it, because a hospital makes its cohort from DICOM with this image.
RUN python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      print(*p['dependencies'], *p['optional-dependencies']['dicom'], sep='\n')" > /needed.txt

# What amos-fl needs, at the versions of requirements.lock: the large layer.
FROM ${PYTHON_IMAGE} AS dependencies
ARG PIP_ARGS=
ARG TORCH_BACKEND=cpu
WORKDIR /build
RUN python3 -m venv /opt/amos-fl
COPY requirements.lock ./
COPY --from=names /needed.txt ./
# PyPI's build of torch for x86 is one for CUDA. uv, which Flower brings anyway, knows where PyTorch keeps the others.
RUN [ -z "${TORCH_BACKEND}" ] || [ -n "${PIP_ARGS}" ] \
 || { /opt/amos-fl/bin/python -m pip install --no-cache-dir --no-compile --disable-pip-version-check \
        --constraint requirements.lock uv \
   && /opt/amos-fl/bin/uv pip install --python /opt/amos-fl/bin/python --no-cache --no-deps \
        --constraint requirements.lock --torch-backend "${TORCH_BACKEND}" torch; } \
 || { echo "There is no PyTorch for ${TORCH_BACKEND} to be had from its makers here." && [ "${TORCH_BACKEND}" = cpu ] \
   && echo "pip takes the one that its index has, which may be for CUDA and large."; }
RUN /opt/amos-fl/bin/python -m pip install --no-cache-dir --no-compile --disable-pip-version-check \
      --constraint requirements.lock --requirement needed.txt ${PIP_ARGS}
# Left out: what installs packages (uv, which only runs that install packages would use, and pip, setuptools), headers,
# tests, pydicom's example files, and the parts of Ray that no simulation uses. The root file system is read-only, so
# Python compiles here.
RUN cd /opt/amos-fl/lib/python3*/site-packages \
 && rm -rf pip pip-*.dist-info setuptools setuptools-*.dist-info _distutils_hack distutils-precedence.pth pkg_resources \
      uv ../../../bin/uv ../../../bin/uvx ../../../bin/pip* \
      torch/include torch/test torch/share torch/bin/test_* torch/bin/protoc* torch/lib/*_test.so \
      ray/jars ray/rllib ray/llm ray/cpp ray/include ray/dashboard/client Crypto/SelfTest matplotlib/mpl-data/sample_data \
      pydicom/data/test_files pydicom/data/charset_files pydicom/data/palettes \
 && find . -depth -type d \( -name tests -o -name test \) ! -path './torch/*' -exec rm -rf {} + \
 && find . -name '*.a' -delete \
 && /opt/amos-fl/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash -x 'testing/_internal' .

# amos-fl itself, beside what it needs: the small layer.
FROM dependencies AS package
ARG PIP_ARGS=
COPY . .
RUN python3 -m venv /tools \
 && /tools/bin/python -m pip wheel --no-cache-dir --disable-pip-version-check --no-deps --wheel-dir /wheel . ${PIP_ARGS} \
 && /tools/bin/python -m pip --python /opt/amos-fl/bin/python install --no-cache-dir --disable-pip-version-check \
      --no-compile --no-deps --prefix /package /wheel/*.whl \
 && /opt/amos-fl/bin/python -m compileall -q --invalidation-mode unchecked-hash /package

FROM ${PYTHON_IMAGE}
RUN rm -rf /usr/local/lib/python3*/site-packages/* /usr/local/lib/python3*/ensurepip /usr/local/bin/pip* \
      /usr/lib/python3/dist-packages/pip* /usr/lib/python3/dist-packages/setuptools* \
      /usr/lib/python3/dist-packages/wheel* /usr/lib/python3*/ensurepip /usr/bin/pip* \
 && echo 'amos-fl:x:1000:1000::/tmp/home:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'amos-fl:x:1000:' >> /etc/group \
 && install -d -m 1777 /runs /site /fl
COPY --from=dependencies /opt/amos-fl /opt/amos-fl
COPY --from=package /package /opt/amos-fl
ENV PATH=/opt/amos-fl/bin:$PATH \
    HOME=/tmp/home USER=amos-fl FLWR_HOME=/tmp/flower AMOS_FL_CACHE=/tmp/amos-fl MPLCONFIGDIR=/tmp/matplotlib \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 RAY_USAGE_STATS_ENABLED=0 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /
CMD ["amos-fl", "--help"]
