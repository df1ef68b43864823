PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

$(VENV)/ready: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -r requirements-dev.txt
	touch $@

test: $(VENV)/ready
	$(BIN)/python -m pytest

demo: $(VENV)/ready
	$(BIN)/python -c "import skimage.data, pathlib; from PIL import Image; pathlib.Path('raw_images').mkdir(exist_ok=True); Image.fromarray(skimage.data.astronaut()).save('raw_images/astronaut.png')"
	$(BIN)/python align_images.py raw_images aligned_images
	$(BIN)/python encode_image.py --src_dir aligned_images --src_im astronaut_01.png
	$(BIN)/python -c "import media; a, b = (media.open_image(d + '/astronaut_01.png') for d in ('aligned_images', 'save_image/encode')); media.save('save_image/demo.png', media.sheet([[a, b]], labels=['photograph', 'reconstruction'], size=256))"
	@echo save_image/demo.png: before and after

.PHONY: demo test
