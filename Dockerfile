# The server of a federation, its sites and its runs: one image, whose command says which it is.
#
# torch without CUDA comes from an index of its own, which is named when the image is built:
# docker build --build-arg PIP_EXTRA_INDEX_URL=... -t rolora .
FROM python:3.11-slim

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG EXTRAS=flower,demo

RUN useradd --create-home --uid 1000 rolora && install -d -o rolora -g rolora /federation

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"

USER 1000
WORKDIR /federation
EXPOSE 9092
CMD ["rolora", "--help"]
