"""Optimiser steps, epochs, members on devices, and the training loop."""
