# make demo: two small diffusion models on handwritten digits, one with Adam and one with Adam-SAM.
# make test: every test; make check: those that start no processes, in two minutes or so.
# make docs: the pages of docs/ and of docstrings as a site; its links are checked.
# make test-slurm: a study on a SLURM of Debian's, in a folder; 15 minutes, and the network.
# make bench: speed and memory against guided-diffusion and diffusers.
# make test-hosts: training on two hosts, made of network namespaces, whose link is cut; skipped where
# they cannot be made (it needs root or user namespaces, and iproute2).
# All make .venv first; none else needs root or a GPU.

PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
STEPS := 001400

MODEL_FLAGS := --image_size 8 --num_channels 32 --channel_mult 1,2 --num_res_blocks 2 \
	--attention_resolutions 4 --learn_sigma True
DIFFUSION_FLAGS := --diffusion_steps 1000 --noise_schedule cosine
TRAIN_FLAGS := --lr 1e-3 --batch_size 32 --end_step 1400 --lr_anneal_steps 1400 \
	--ema_rate 0.99 --random_flip False --log_interval 20 \
	--save_interval 350 --keep_last 1

adam_FLAGS := --optimizer adam
adam-sam_FLAGS := --optimizer adam-sam --rho 0.1

.PHONY: demo check test test-slurm test-hosts bench docs lint clean
.DELETE_ON_ERROR:
.SECONDARY:

demo: $(DEMO)/flatness/flatness_LPF.csv $(DEMO)/flatness/flatness_MC.csv \
		$(DEMO)/flatness/flatness_EXPLAIN.csv $(DEMO)/exposure/exposure_bias.json \
		$(DEMO)/perturbed/perturbed_samples.json $(DEMO)/distances.png
	@echo; $(BIN)/python scripts/report.py --log_dir $(DEMO)

check: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile

test: check
	$(BIN)/python -m pytest -m slow

test-hosts: .venv/ready
	$(BIN)/python -m pytest -rs -s tests/hosts/two_hosts.py

test-slurm: .venv/ready
	$(BIN)/python -m pytest tests/slurm/study.py

bench: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r benchmarks/guided_diffusion.txt
	$(BIN)/python benchmarks/bench.py --json runs/bench.json --results benchmarks/RESULTS.md

docs: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	rm -rf build/pages && mkdir -p build/pages
	cp -r README.md CONTRIBUTING.md CHANGELOG.md CITATION.cff docs benchmarks examples build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo; echo "$(abspath build/site/index.html)"

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check

clean:
	rm -rf .venv runs build/pages build/site

.venv/ready: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; $(PYTHON) is older. Try: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

$(DEMO)/digits/ready: .venv/ready
	$(BIN)/python datasets/digits.py --out_dir $(DEMO)/digits
	touch $@

$(DEMO)/%/state$(STEPS).pt: $(DEMO)/digits/ready
	$(BIN)/mpirun -n 2 $(BIN)/python scripts/image_train.py --data_dir $(DEMO)/digits \
		$(MODEL_FLAGS) $(DIFFUSION_FLAGS) $(TRAIN_FLAGS) $($*_FLAGS) \
		--posthoc_ema 70 --log_dir $(DEMO)/$* --resume auto

SAMPLE_FLAGS := --num_samples 500 --batch_size 125 --timestep_respacing 100
MODELS := $(DEMO)/adam/ema_0.99_$(STEPS).pt,$(DEMO)/adam-sam/ema_0.99_$(STEPS).pt
TRAINED := $(DEMO)/adam/state$(STEPS).pt $(DEMO)/adam-sam/state$(STEPS).pt

$(DEMO)/%/samples_500x8x8x3.npz: $(DEMO)/%/state$(STEPS).pt
	$(BIN)/mpirun -n 2 $(BIN)/python scripts/image_sample.py $(SAMPLE_FLAGS) \
		--model_path $(DEMO)/$*/ema_0.99_$(STEPS).pt --log_dir $(DEMO)/$*

$(DEMO)/%/samples_500x8x8x3_w8.npz: $(DEMO)/%/state$(STEPS).pt
	$(BIN)/mpirun -n 2 $(BIN)/python scripts/image_sample_quant.py --quant 8 $(SAMPLE_FLAGS) \
		--model_path $(DEMO)/$*/ema_0.99_$(STEPS).pt --log_dir $(DEMO)/$* --data_dir $(DEMO)/digits

$(DEMO)/%/samples_500x8x8x3_w4.npz: $(DEMO)/%/state$(STEPS).pt
	$(BIN)/mpirun -n 2 $(BIN)/python scripts/image_sample_quant.py --quant 4 $(SAMPLE_FLAGS) \
		--model_path $(DEMO)/$*/ema_0.99_$(STEPS).pt --log_dir $(DEMO)/$* --data_dir $(DEMO)/digits

$(DEMO)/flatness/flatness_%.csv: $(TRAINED)
	$(BIN)/mpirun -n 2 $(BIN)/python scripts/flatness.py --flatness $* --model_path $(MODELS) \
		--data_dir $(DEMO)/digits --num_images 256 --log_dir $(DEMO)/flatness

$(DEMO)/flatness/flatness_EXPLAIN.csv: $(TRAINED)
	$(BIN)/mpirun -n 2 $(BIN)/python scripts/flatness.py --flatness EXPLAIN --bits 8,6,4 \
		--model_path $(MODELS) --data_dir $(DEMO)/digits --num_images 128 --num_draws 8 \
		--log_dir $(DEMO)/flatness

$(DEMO)/exposure/exposure_bias.json: $(TRAINED)
	$(BIN)/mpirun -n 2 $(BIN)/python scripts/exposure_bias.py --model_path $(MODELS) \
		--data_dir $(DEMO)/digits --timestep_respacing 20 --log_dir $(DEMO)/exposure

$(DEMO)/perturbed/perturbed_samples.json: $(TRAINED)
	$(BIN)/mpirun -n 2 $(BIN)/python scripts/perturbed_samples.py --model_path $(MODELS) \
		--average_path model$(STEPS).pt --data_dir $(DEMO)/digits --features digits \
		--num_samples 200 --timestep_respacing 10 --num_images 128 --log_dir $(DEMO)/perturbed

$(DEMO)/distances.png: $(foreach run,adam adam-sam,$(foreach bits,3 3_w8 3_w4, \
		$(DEMO)/$(run)/samples_500x8x8x$(bits).npz))
	$(BIN)/python scripts/compare.py --runs $(DEMO)/adam,$(DEMO)/adam-sam --log_dir $(DEMO) \
		--reference $(DEMO)/digits --features digits
