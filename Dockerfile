# unmemorize in a container: the demo by default, any command by name.
#   docker build -t unmemorize .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" unmemorize demo
# GPUs are used where the runtime gives them: add --gpus all, and --shm-size 16g for large models.
FROM python:3.11-slim

WORKDIR /opt/unmemorize
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --constraint constraints.txt '.[onnx,parquet]'

# a user without rights or home: caches go where the results go, and nothing of the host's credentials comes in
ENV HF_HOME=/work/.huggingface MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /work
RUN chown 1000:1000 /work
USER 1000:1000
ENTRYPOINT ["unmemorize"]
CMD ["demo"]
