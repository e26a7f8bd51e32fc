"""BibTeX of what is in use."""

from __future__ import annotations

__all__ = ["BIBTEX"]


BIBTEX = {
    "bhalodia2019": """@inproceedings{bhalodia2020dpvaes,
  title = {{dpVAEs}: Fixing Sample Generation for Regularized {VAEs}},
  author = {Bhalodia, Riddhish and Lee, Iain and Elhabian, Shireen},
  booktitle = {Asian Conference on Computer Vision}, year = {2020}, eprint = {1911.10506}
}""",
    "bingham2019": """@article{bingham2019pyro,
  title = {Pyro: Deep Universal Probabilistic Programming},
  author = {Bingham, Eli and Chen, Jonathan P. and Jankowiak, Martin and Obermeyer, Fritz and Pradhan, Neeraj and
    Karaletsos, Theofanis and Singh, Rohit and Szerlip, Paul and Horsfall, Paul and Goodman, Noah D.},
  journal = {Journal of Machine Learning Research}, volume = {20}, number = {28}, pages = {1--6}, year = {2019}
}""",
    "de2025": """@article{de2025improving,
  title = {Improving Conditional {VAE} with approximation using Normalizing Flows},
  author = {De, Tuhin Subhra},
  journal = {arXiv preprint arXiv:2511.08946}, year = {2025}
}""",
    "dinh2015": """@inproceedings{dinh2015nice,
  title = {{NICE}: Non-linear Independent Components Estimation},
  author = {Dinh, Laurent and Krueger, David and Bengio, Yoshua},
  booktitle = {International Conference on Learning Representations, workshop}, year = {2015}, eprint = {1410.8516}
}""",
    "dinh2017": """@inproceedings{dinh2017density,
  title = {Density estimation using {Real NVP}},
  author = {Dinh, Laurent and Sohl-Dickstein, Jascha and Bengio, Samy},
  booktitle = {International Conference on Learning Representations}, year = {2017}, eprint = {1605.08803}
}""",
    "durkan2019": """@inproceedings{durkan2019neural,
  title = {Neural Spline Flows},
  author = {Durkan, Conor and Bekasov, Artur and Murray, Iain and Papamakarios, George},
  booktitle = {Advances in Neural Information Processing Systems}, volume = {32}, year = {2019}, eprint = {1906.04032}
}""",
    "kim2021": """@inproceedings{kim2021conditional,
  title = {Conditional Variational Autoencoder with Adversarial Learning for End-to-End Text-to-Speech},
  author = {Kim, Jaehyeon and Kong, Jungil and Son, Juhee},
  booktitle = {International Conference on Machine Learning}, year = {2021}, eprint = {2106.06103}
}""",
    "kingma2014": """@inproceedings{kingma2014auto,
  title = {Auto-Encoding Variational {Bayes}},
  author = {Kingma, Diederik P. and Welling, Max},
  booktitle = {International Conference on Learning Representations}, year = {2014}, eprint = {1312.6114}
}""",
    "kingma2014semi": """@inproceedings{kingma2014semi,
  title = {Semi-supervised Learning with Deep Generative Models},
  author = {Kingma, Diederik P. and Rezende, Danilo J. and Mohamed, Shakir and Welling, Max},
  booktitle = {Advances in Neural Information Processing Systems}, volume = {27}, year = {2014}, eprint = {1406.5298}
}""",
    "klushyn2019": """@inproceedings{klushyn2019increasing,
  title = {Increasing the Generalisation Capacity of Conditional {VAEs}},
  author = {Klushyn, Alexej and Chen, Nutan and Cseke, Botond and Bayer, Justin and van der Smagt, Patrick},
  booktitle = {International Conference on Artificial Neural Networks}, year = {2019}
}""",
    "lavda2019": """@article{lavda2019improving,
  title = {Improving {VAE} generations of multimodal data through data-dependent conditional priors},
  author = {Lavda, Frantzeska and Gregorov{\\'a}, Magda and Kalousis, Alexandros},
  journal = {arXiv preprint arXiv:1911.10885}, year = {2019}
}""",
    "papamakarios2017": """@inproceedings{papamakarios2017masked,
  title = {Masked Autoregressive Flow for Density Estimation},
  author = {Papamakarios, George and Pavlakou, Theo and Murray, Iain},
  booktitle = {Advances in Neural Information Processing Systems}, volume = {30}, year = {2017}, eprint = {1705.07057}
}""",
    "rybkin2021": """@inproceedings{rybkin2021simple,
  title = {Simple and Effective {VAE} Training with Calibrated Decoders},
  author = {Rybkin, Oleh and Daniilidis, Kostas and Levine, Sergey},
  booktitle = {International Conference on Machine Learning}, year = {2021}, eprint = {2006.13202}
}""",
    "sohn2015": """@inproceedings{sohn2015learning,
  title = {Learning Structured Output Representation using Deep Conditional Generative Models},
  author = {Sohn, Kihyuk and Lee, Honglak and Yan, Xinchen},
  booktitle = {Advances in Neural Information Processing Systems}, volume = {28}, year = {2015}
}""",
    "tomczak2018": """@inproceedings{tomczak2018vae,
  title = {{VAE} with a {VampPrior}},
  author = {Tomczak, Jakub M. and Welling, Max},
  booktitle = {International Conference on Artificial Intelligence and Statistics}, year = {2018}, eprint = {1705.07120}
}""",
}
