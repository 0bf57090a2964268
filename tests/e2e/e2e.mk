##@ End-to-end tests, on a cluster of their own

# On a cluster of its own, which it makes and deletes, or on one that is there: E2E_CONTEXT=kind-plinth.
.PHONY: e2e
e2e: ## Test the release on a real cluster (E2E_CONTEXT=…, ARGS='-m ""': all of it)
	$(call needs,docker kind kubectl helm skaffold)
	@$(MAKE) --no-print-directory $(VENV)/.e2e
	@KIND_NODE_IMAGE=$(KIND_NODE_IMAGE) COLLECTOR=$(COLLECTOR) $(BIN)/python -m pytest tests/e2e -m "not slow" $(ARGS)

# The same with the client of Kubernetes.
$(VENV)/.e2e: requirements/e2e.txt $(VENV)/.dev
	$(call install,requirements/e2e.txt requirements/service.txt)
