# wsss in a container; docs/how-to/container.md says how it is built and used.
#   docker build -t wsss .                               for CPUs
#   docker build -t wsss --build-arg TORCH=cu132 .       for GPUs: the CUDA of PyTorch's builds
FROM python:3.13-slim

ARG TORCH=cpu
WORKDIR /opt/wsss
COPY . .
# uv knows where PyTorch publishes its build for each backend
RUN pip install --no-cache-dir uv \
 && uv pip install --system --no-cache --torch-backend "$TORCH" '.[app,excel,export]' -c constraints.txt

# whoever it runs as can write here, and what is remembered of data sets goes with the container
ENV HOME=/tmp
WORKDIR /wsss
ENTRYPOINT ["wsss"]
CMD ["--help"]
